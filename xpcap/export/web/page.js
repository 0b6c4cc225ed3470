// The page: pictures in, captions out. The captioner itself runs in a worker.

import { PictureError, openCaptioner } from "./captioner.js";
import { openDrawing } from "./drawing.js";

const DIMMEST = 0.75; // largest opacity of the veil of attention
const FLAT = 128; // pixels; smaller pictures are shown enlarged, pixel by pixel
const TALL = 24; // rem, the most height of a picture
const find = (id) => document.getElementById(id);

let captioner = null; // once it is open
let pressed = null; // the word whose attention stays on the picture
let given = 0; // pictures so far; results of all but the last are dropped
let shownUrl = "";

// ---- The captioner

async function open() {
  captioner = await openCaptioner({ onBytes: showProgress });
  find("progress").hidden = true;
  say("Ready.");
  find("result").setAttribute("aria-busy", "false");
}

function showProgress(received, all) {
  const [done, whole] = [received, all].map((x) => (x / 1e6).toFixed(0));
  find("progress").hidden = false;
  find("progress").max = all;
  find("progress").value = received;
  say(received < all ? `Loading: ${done} of ${whole} MB` : "Starting.");
}

const say = (text) => (find("status").textContent = text);

function complain(text) {
  find("trouble").textContent = text;
  find("trouble").hidden = !text;
}

// ---- A picture

async function caption(blob, isDrawn = false) {
  given += 1;
  const number = given;
  if (!isDrawn) showPad(false);
  complain("");
  clearCaptions();
  try {
    await opened;
    const picture = await captioner.read(blob);
    if (number !== given) return;
    show(blob, picture);
    say("Looking.");
    find("result").setAttribute("aria-busy", "true");
    const begun = performance.now();
    const result = await captioner.caption(picture);
    if (number !== given) return;
    showCaptions(result, performance.now() - begun);
  } catch (error) {
    if (number !== given) return;
    say("");
    complain(error instanceof PictureError ? error.message : `No caption: ${error.message}`);
  } finally {
    if (number === given) find("result").setAttribute("aria-busy", "false");
  }
}

function show(blob, { width, height }) {
  URL.revokeObjectURL(shownUrl);
  shownUrl = URL.createObjectURL(blob);
  find("picture").src = shownUrl;
  find("picture").classList.toggle("flat", Math.max(width, height) <= FLAT);
  find("shown").style.width = `min(100%, ${((TALL * width) / height).toFixed(2)}rem)`;
  find("veil").hidden = true;
  find("shown").hidden = false;
  find("hint").hidden = true;
}

// ---- Captions

function clearCaptions() {
  find("captions").replaceChildren();
  find("legend").hidden = true;
  find("veil").hidden = true;
  pressed = null;
}

function showCaptions({ captions, area }, milliseconds) {
  const { manifest } = captioner;
  const [first] = captions;
  const text = first ? first.text : "(nothing)";
  find("captions").replaceChildren(...captions.map((one, i) => itemOf(one, area, i)));
  find("picture").alt = text;
  say(`${text} (${(milliseconds / 1000).toFixed(1)} seconds)`);
  find("status").classList.toggle("unseen", Boolean(first));
  find("legend").hidden = !first;
  find("attends").hidden = !manifest.attends;
  find("ranks").textContent = manifest.ranking
    ? `Captions are ranked with the help of the ${manifest.ranking.photos.toLocaleString("en")}` +
      " training pictures, as in xpcap."
    : `Captions of a beam of ${manifest.policy.width}, by log-probability a word; the run has no` +
      " other ranking.";
}

function itemOf(caption, area, place) {
  const item = document.createElement("li");
  const line = document.createElement("p");
  line.className = "caption";
  line.lang = "";
  line.dir = "auto";
  if (!caption.words.length) line.textContent = "(nothing)";
  caption.words.forEach((word, i) => {
    const p = caption.probabilities[i];
    line.append(wordOf(word, p, caption.attention?.[i], area), caption.gaps[i]);
  });
  item.append(line);
  if (place === 0 && caption.words.length) item.append(oddsOf(caption));
  return item;
}

function wordOf(word, p, weights, area) {
  const element = document.createElement(weights ? "button" : "span");
  element.className = "word";
  element.textContent = word;
  element.style.setProperty("--p", p.toFixed(3));
  element.title = `p = ${p.toFixed(2)}`;
  if (!weights) return element;
  element.type = "button";
  element.setAttribute("aria-pressed", "false");
  element.setAttribute("aria-label", `${word}: ${percent(p)}, show where the model looked`);
  const look = () => veil(weights, area);
  const rest = () => (pressed ? pressed.look() : (find("veil").hidden = true));
  element.onpointerenter = element.onfocus = look;
  element.onpointerleave = element.onblur = rest;
  element.onclick = () => {
    const same = pressed?.element === element;
    pressed?.element.setAttribute("aria-pressed", "false");
    pressed = same ? null : { element, look };
    element.setAttribute("aria-pressed", String(!same));
    if (!same) look();
    else find("veil").hidden = true;
  };
  return element;
}

function oddsOf({ words, probabilities }) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = "Word by word";
  const list = document.createElement("ol");
  list.className = "odds";
  words.forEach((word, i) => {
    const item = document.createElement("li");
    const [name, value] = [document.createElement("bdi"), document.createElement("span")];
    name.textContent = word;
    value.textContent = percent(probabilities[i]);
    item.append(name, " ", value);
    list.append(item);
  });
  details.append(summary, list);
  return details;
}

function percent(p) {
  if (p < 0.005) return "under 1%";
  return p >= 0.995 && p < 1 ? "over 99%" : `${Math.round(p * 100)}%`;
}

// Darken the picture where a word's weights of the regions of an area are small.
function veil(weights, { top, left, bottom, right }) {
  const regions = Math.round(Math.sqrt(weights.length));
  const small = document.createElement("canvas");
  small.width = small.height = regions;
  const most = Math.max(...weights);
  const pixels = new ImageData(regions, regions);
  weights.forEach((weight, i) => (pixels.data[4 * i + 3] = Math.round(255 * (1 - weight / most))));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const canvas = find("veil");
  const { naturalWidth, naturalHeight } = find("picture");
  const scale = 512 / Math.max(naturalWidth, naturalHeight, 1);
  canvas.width = Math.max(1, Math.round(naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(naturalHeight * scale));
  const context = canvas.getContext("2d");
  const [x, y] = [left * canvas.width, top * canvas.height];
  const [width, height] = [(right - left) * canvas.width, (bottom - top) * canvas.height];
  context.globalAlpha = DIMMEST;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.clearRect(x, y, width, height);
  context.drawImage(small, x, y, width, height);
  canvas.hidden = false;
}

// ---- Ways to give a picture

function listen() {
  for (const [button, input] of [["choose", "file"], ["take", "camera"]]) {
    find(button).onclick = () => find(input).click();
    find(input).onchange = () => {
      const [file] = find(input).files;
      find(input).value = ""; // so that the same file can be chosen again
      if (file) caption(file);
    };
  }
  document.ondragover = (event) => {
    event.preventDefault();
    find("stage").classList.add("over");
  };
  document.ondragleave = () => find("stage").classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    find("stage").classList.remove("over");
    accept(event.dataTransfer, "What was dropped");
  };
  document.onpaste = (event) => accept(event.clipboardData, "The clipboard");
  if (find("draw")) {
    openDrawing(find, (blob) => caption(blob, true));
    find("draw").onclick = () => {
      showPad(find("pad").hidden);
      if (!find("pad").hidden) find("canvas").focus();
    };
  }
}

// Show or hide the sheet to draw on, which replaces the picture.
function showPad(opens) {
  if (!find("pad")) return;
  find("pad").hidden = !opens;
  find("stage").hidden = opens && !captioner?.manifest.attends; // where words show what the model looked at
  find("draw").setAttribute("aria-expanded", String(opens));
  find("draw").setAttribute("aria-pressed", String(opens));
}

function accept(transfer, what) {
  const [file] = transfer?.files ?? [];
  if (file) caption(file);
  else {
    complain(
      `${what} holds no picture file. This page loads nothing from elsewhere: save the picture,` +
        " then choose the file.",
    );
  }
}

const opened = open();
find("app").hidden = false;
listen();
opened.catch((error) => {
  find("app").hidden = true;
  find("problem").textContent = error.message;
  find("problem").hidden = false;
});
