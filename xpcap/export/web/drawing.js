// A sheet on which to draw shapes like those of generated pictures.

const STEP = 16; // pixels that an arrow key moves the cross
const RADIUS = { small: 26, large: 42 }; // 3 times those of generated shapes
const BRUSH = 0.2; // of the radius
const OUTLINES = {
  square: { corners: 4, radii: [1.25], first: Math.PI / 4 },
  triangle: { corners: 3, radii: [1.3], first: 0 },
  star: { corners: 10, radii: [1.25, 0.55], first: 0 },
};
const PAPER = "#f4f4f2";

// Open the sheet of a page. find(id): an element of the page. onStroke(): called after each stroke.
export function openDrawing(find, onStroke) {
  const canvas = find("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const chosen = (tool) => find("tools").querySelector(`[name=${tool}]:checked`);
  const cross = { x: canvas.width / 2, y: canvas.height / 2 };
  let isEmpty = true;
  let last = null; // the last point of a stroke

  function clear() {
    isEmpty = true;
    context.fillStyle = PAPER;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }

  // Show the cross, and tell screen readers its position and the shape drawn there.
  function showCross(shape = "") {
    find("cross").hidden = false;
    find("cross").style.left = `${(100 * cross.x) / canvas.width}%`;
    find("cross").style.top = `${(100 * cross.y) / canvas.height}%`;
    const [column, row] = [cross.x / STEP + 1, cross.y / STEP + 1];
    const [columns, rows] = [canvas.width / STEP + 1, canvas.height / STEP + 1];
    find("where").textContent = `${shape}column ${column} of ${columns}, row ${row} of ${rows}`;
  }

  function put({ x, y }) {
    const [shape, size] = [chosen("shape").value, RADIUS[chosen("size").value]];
    isEmpty = false;
    context.fillStyle = context.strokeStyle = chosen("colour").dataset.code;
    context.lineWidth = 2 * BRUSH * size;
    context.beginPath();
    if (shape === "brush") {
      context.moveTo(last?.x ?? x, last?.y ?? y);
      context.lineTo(x, y);
      context.stroke();
      context.beginPath();
      outline(context, "circle", x, y, BRUSH * size);
    } else outline(context, shape, x, y, size);
    context.fill();
    onStroke();
  }

  function at(event) {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    find("cross").hidden = true;
    put(at(event));
    last = at(event);
  };
  canvas.onpointermove = (event) => {
    if (!last || chosen("shape").value !== "brush") return;
    put(at(event));
    last = at(event);
  };
  canvas.onpointerup = canvas.onpointercancel = () => (last = null);
  canvas.onkeydown = (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (move) {
      event.preventDefault();
      cross.x = Math.min(Math.max(cross.x + move[0] * STEP, 0), canvas.width);
      cross.y = Math.min(Math.max(cross.y + move[1] * STEP, 0), canvas.height);
      showCross();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      put(cross);
      showCross(`${["size", "colour", "shape"].map((tool) => chosen(tool).value).join(" ")}: `);
    }
  };
  canvas.onfocus = () => {
    if (canvas.matches(":focus-visible")) showCross();
  };
  canvas.onblur = () => (find("cross").hidden = true);

  clear();
  return { clear, isEmpty: () => isEmpty };
}

// The outline of a shape of generated pictures, not turned.
function outline(context, shape, x, y, size) {
  if (shape === "circle") {
    context.arc(x, y, size, 0, 2 * Math.PI);
    return;
  }
  const { corners, radii, first } = OUTLINES[shape];
  for (let k = 0; k < corners; k++) {
    const angle = first + (2 * Math.PI * k) / corners;
    const radius = size * radii[k % radii.length];
    context.lineTo(x + radius * Math.sin(angle), y - radius * Math.cos(angle));
  }
  context.closePath();
}
