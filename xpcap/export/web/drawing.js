// A sheet to draw shapes on, as those that generated pictures have.

const STEP = 16; // pixels that an arrow key moves the cross
const RADIUS = { small: 26, large: 42 }; // as generated shapes, with 3 pixels for each of theirs
const BRUSH = 0.2; // of that
const OUTLINES = {
  square: { corners: 4, radii: [1.25], first: Math.PI / 4 },
  triangle: { corners: 3, radii: [1.3], first: 0 },
  star: { corners: 10, radii: [1.25, 0.55], first: 0 },
};
const PAPER = "#f4f4f2";

// Open the sheet of a page. find(id): an element of the page. onStroke() is called when something
// was drawn. pixels() is the ImageData of the sheet, or null of an empty one.
export function openDrawing(find, onStroke) {
  const canvas = find("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const chosen = {}; // buttons
  const value = (key) => chosen[key].dataset[key];
  const cross = { x: canvas.width / 2, y: canvas.height / 2 };
  let isEmpty = true;
  let base = null; // the sheet without the cross
  let last = null; // the last point of a stroke

  for (const [group, key] of [["shapes", "shape"], ["sizes", "size"], ["colours", "colour"]]) {
    const buttons = [...find(group).querySelectorAll("button")];
    const choose = (button) => {
      chosen[key] = button;
      for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
    };
    choose(buttons.find((one) => one.getAttribute("aria-pressed") === "true"));
    for (const button of buttons) button.onclick = () => choose(button);
  }

  function clear() {
    isEmpty = true;
    base = null;
    context.fillStyle = PAPER;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }

  function hideCross() {
    if (base) context.putImageData(base, 0, 0);
    base = null;
  }

  function showCross() {
    base = context.getImageData(0, 0, canvas.width, canvas.height);
    context.strokeStyle = "#555";
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(cross.x - 12, cross.y);
    context.lineTo(cross.x + 12, cross.y);
    context.moveTo(cross.x, cross.y - 12);
    context.lineTo(cross.x, cross.y + 12);
    context.stroke();
    tell("");
  }

  // Say to screen readers where the cross is, and what was put there.
  function tell(what) {
    const place = [["column", cross.x, canvas.width], ["row", cross.y, canvas.height]].map(
      ([name, at, most]) => `${name} ${at / STEP + 1} of ${most / STEP + 1}`,
    );
    find("cross").textContent = `${what}${place.join(", ")}`;
  }

  function pixels() {
    if (isEmpty) return null;
    return base ?? context.getImageData(0, 0, canvas.width, canvas.height);
  }

  function put(x, y) {
    hideCross();
    isEmpty = false;
    context.fillStyle = value("colour");
    context.beginPath();
    if (value("shape") === "brush") outline(context, "circle", x, y, BRUSH * RADIUS[value("size")]);
    else outline(context, value("shape"), x, y, RADIUS[value("size")]);
    context.fill();
    onStroke();
  }

  function stroke(x, y) {
    hideCross();
    context.strokeStyle = value("colour");
    context.lineWidth = 2 * BRUSH * RADIUS[value("size")];
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(last.x, last.y);
    context.lineTo(x, y);
    context.stroke();
    onStroke();
  }

  function at(event) {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = at(event);
    put(last.x, last.y);
  };
  canvas.onpointermove = (event) => {
    if (!last || value("shape") !== "brush") return;
    const point = at(event);
    stroke(point.x, point.y);
    last = point;
  };
  canvas.onpointerup = canvas.onpointercancel = () => (last = null);
  canvas.onkeydown = (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (move) {
      event.preventDefault();
      hideCross();
      cross.x = Math.min(Math.max(cross.x + move[0] * STEP, 0), canvas.width);
      cross.y = Math.min(Math.max(cross.y + move[1] * STEP, 0), canvas.height);
      showCross();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      put(cross.x, cross.y);
      const { size, colour, shape } = chosen;
      tell(`${[size, colour, shape].map((one) => one.textContent).join(" ")}: `);
    }
  };
  canvas.onfocus = () => {
    if (canvas.matches(":focus-visible")) showCross();
  };
  canvas.onblur = hideCross;

  clear();
  return { clear, pixels };
}

// The outline of a shape, as xpcap's generated pictures have it, without a turn.
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
