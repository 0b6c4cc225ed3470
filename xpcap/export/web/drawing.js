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
const PAUSE = 350; // milliseconds from the last stroke to its caption

// find(id): an element of the page. onPicture(blob) is called when something was drawn.
export function openDrawing(find, onPicture) {
  const canvas = find("canvas");
  const context = canvas.getContext("2d");
  const chosen = { shape: "circle", size: "large", colour: "" };
  const cross = { x: canvas.width / 2, y: canvas.height / 2 };
  let base = null; // the sheet without the cross
  let last = null; // the last point of a stroke
  let timer = 0;

  for (const [group, key] of [["shapes", "shape"], ["sizes", "size"], ["colours", "colour"]]) {
    const buttons = [...find(group).querySelectorAll("button")];
    const choose = (button) => {
      chosen[key] = button.dataset[key];
      for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
    };
    choose(buttons.find((one) => one.getAttribute("aria-pressed") === "true"));
    for (const button of buttons) button.onclick = () => choose(button);
  }

  function clear() {
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
  }

  function changed() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      hideCross();
      canvas.toBlob((blob) => blob && onPicture(blob), "image/png");
    }, PAUSE);
  }

  function put(x, y) {
    hideCross();
    context.fillStyle = chosen.colour;
    context.beginPath();
    if (chosen.shape === "brush") outline(context, "circle", x, y, BRUSH * RADIUS[chosen.size]);
    else outline(context, chosen.shape, x, y, RADIUS[chosen.size]);
    context.fill();
    changed();
  }

  function stroke(x, y) {
    hideCross();
    context.strokeStyle = chosen.colour;
    context.lineWidth = 2 * BRUSH * RADIUS[chosen.size];
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(last.x, last.y);
    context.lineTo(x, y);
    context.stroke();
    changed();
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
    if (!last || chosen.shape !== "brush") return;
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
    }
  };
  canvas.onfocus = () => {
    if (canvas.matches(":focus-visible")) showCross();
  };
  canvas.onblur = hideCross;
  find("clear").onclick = clear;

  clear();
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
