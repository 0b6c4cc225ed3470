// The page: it takes pictures and shows captions. The captioner runs in a worker.

import { PictureError, openCaptioner } from "./captioner.js";
import { openDrawing } from "./drawing.js";

const MAX_OPACITY = 0.75; // of the veil that shows attention
const FLAT = 128; // pixels; smaller pictures are enlarged without smoothing
const MAX_HEIGHT = 24; // rem, of a picture
const PAUSE = 80; // milliseconds to wait after a stroke, since another one may follow
const find = (id) => document.getElementById(id);

let captioner = null; // null until it is open
let pressed = null; // the word whose attention stays visible
let current = new AbortController(); // of the latest caption
let shown = null; // the picture or sheet that is shown: its width and height
let shownUrl = "";
let timer = 0; // from a stroke to its caption
let unfolds = !matchMedia("(max-width: 48rem)").matches; // whether other captions are unfolded

// ---- The captioner

async function open() {
  captioner = await openCaptioner({ onBytes: showProgress });
  find("progress").hidden = true;
  say("Ready.");
  find("result").setAttribute("aria-busy", "false");
}

function showProgress(received, all) {
  const [loaded, total] = [received, all].map((x) => (x / 1e6).toFixed(0));
  find("progress").hidden = false;
  find("progress").max = all;
  find("progress").value = received;
  say(received < all ? `Loading: ${loaded} of ${total} MB` : "Starting.");
}

const say = (text) => (find("status").textContent = text);

function complain(text) {
  find("trouble").textContent = text;
  find("trouble").hidden = !text;
}

// ---- A picture

// End the current caption, and return the signal of the next one.
function stop() {
  clearTimeout(timer);
  complain("");
  find("result").setAttribute("aria-busy", "false");
  current.abort();
  current = new AbortController();
  return current.signal;
}

// Caption a picture file, or without a file the sheet.
async function caption(file = null) {
  const signal = stop();
  if (file && captioner) clearCaptions(); // a drawing's captions stay until new ones, so nothing jumps
  try {
    await opened;
    const picture = await captioner.read(file ?? find("canvas"));
    if (signal.aborted) return;
    show(picture, file);
    say("Captioning.");
    find("result").setAttribute("aria-busy", "true");
    const begun = performance.now();
    const result = await captioner.caption(picture, { signal });
    if (signal.aborted) return;
    showCaptions(result, performance.now() - begun);
  } catch (error) {
    if (signal.aborted) return;
    clearCaptions();
    complain(error instanceof PictureError ? error.message : `No caption: ${error.message}`);
  } finally {
    if (!signal.aborted) find("result").setAttribute("aria-busy", "false");
  }
}

// Show the picture of a file, or without a file the sheet.
function show(picture, file = null) {
  shown = picture;
  const { width, height } = picture;
  if (file) {
    URL.revokeObjectURL(shownUrl);
    shownUrl = URL.createObjectURL(file);
    find("picture").src = shownUrl;
    find("picture").classList.toggle("flat", Math.max(width, height) <= FLAT);
  }
  find("app").classList.toggle("drawing", !file);
  find("shown").style.width = `min(100%, ${((MAX_HEIGHT * width) / height).toFixed(2)}rem)`;
  find("shown").hidden = false;
  find("hint").hidden = true;
}

// ---- Captions

function clearCaptions(status = "") {
  find("captions").replaceChildren();
  find("legend").hidden = true;
  press(null);
  say(status);
}

function showCaptions({ captions, area }, milliseconds) {
  const { manifest } = captioner;
  const [first] = captions;
  const text = first ? first.text : "(nothing)";
  press(null);
  const [best, ...rest] = captions.map((caption, i) => itemOf(caption, area, i));
  const others = fold("Other captions", make("ol", "captions", ...rest), unfolds);
  others.ontoggle = () => (unfolds = others.open);
  find("captions").replaceChildren(best, make("li", "", others));
  find("picture").alt = text;
  const seconds = (milliseconds / 1000).toFixed(2);
  find("status").replaceChildren(make("span", "unseen", `${text}. `), `${seconds} seconds`);
  find("legend").hidden = !first;
  find("attends").hidden = !manifest.attends;
  find("reranking").textContent = manifest.reranking
    ? `Captions are reranked with the help of the ${manifest.reranking.photos.toLocaleString("en")}` +
      " training pictures, as in xpcap."
    : `Captions of a beam of ${manifest.policy.width}, by log-probability per word; the run has no` +
      " reranking.";
}

function make(tag, className, ...content) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...content);
  return element;
}

function fold(title, content, opens = false) {
  const details = make("details", "", make("summary", "", title), content);
  details.open = opens;
  return details;
}

function itemOf(caption, area, place) {
  const item = make("li", "");
  const line = make("p", "caption", caption.words.length ? "" : "(nothing)");
  Object.assign(line, { lang: "", dir: "auto" });
  caption.words.forEach((word, i) => {
    const p = caption.probabilities[i];
    line.append(wordOf(word, p, caption.attention?.[i], area), caption.gaps[i]);
  });
  if (caption.attention?.length) {
    // A copy that screen readers read without pauses
    item.append(Object.assign(make("p", "unseen", caption.text), { lang: "" }));
    rove(line, `Words of caption ${place + 1}`);
  }
  item.append(line);
  if (place === 0 && caption.words.length) item.append(fold("Word by word", oddsOf(caption)));
  return item;
}

function wordOf(word, p, weights, area) {
  const element = make(weights ? "button" : "span", "word", word);
  element.style.setProperty("--p", p.toFixed(3));
  element.title = `p = ${p.toFixed(2)}`;
  if (!weights) return element;
  element.setAttribute("aria-pressed", "false");
  const look = () => veil(weights, area);
  element.onpointerenter = element.onfocus = look;
  element.onpointerleave = element.onblur = () => press(pressed);
  element.onclick = () => press(pressed?.element === element ? null : { element, look });
  return element;
}

// Keep the attention of a word, { element, look }, visible; null: hide it.
function press(word) {
  pressed?.element.setAttribute("aria-pressed", "false");
  pressed = word;
  pressed?.element.setAttribute("aria-pressed", "true");
  find("veil").hidden = true;
  pressed?.look();
}

// A tab stop for the words of a line: arrow keys, Home and End move in it, and Escape leaves it.
function rove(line, name) {
  const words = [...line.querySelectorAll("button")];
  const stopAt = (word) => words.forEach((button) => (button.tabIndex = button === word ? 0 : -1));
  stopAt(words[0]);
  line.setAttribute("role", "toolbar");
  line.setAttribute("aria-label", name);
  line.setAttribute("aria-describedby", "attends");
  line.addEventListener("focusin", ({ target }) => stopAt(target));
  line.onkeydown = (event) => {
    const [at, last] = [words.indexOf(event.target), words.length - 1];
    const step = getComputedStyle(line).direction === "rtl" ? -1 : 1;
    const to = { ArrowRight: at + step, ArrowLeft: at - step, Home: 0, End: last }[event.key];
    if (event.key === "Escape") {
      event.target.blur();
      press(null);
    } else if (words[to]) {
      event.preventDefault();
      words[to].focus();
    }
  };
}

function oddsOf({ words, probabilities }) {
  const items = words.map((word, i) => {
    return make("li", "", make("bdi", "", word), " ", make("span", "", percent(probabilities[i])));
  });
  return make("ol", "odds", ...items);
}

function percent(p) {
  if (p < 0.005) return "under 1%";
  return p >= 0.995 && p < 1 ? "over 99%" : `${Math.round(p * 100)}%`;
}

// Darken the regions of an area whose weights for a word are small.
function veil(weights, { top, left, bottom, right }) {
  const regions = Math.round(Math.sqrt(weights.length));
  const small = document.createElement("canvas");
  small.width = small.height = regions;
  const max = Math.max(...weights);
  const pixels = new ImageData(regions, regions);
  weights.forEach((weight, i) => (pixels.data[4 * i + 3] = Math.round(255 * (1 - weight / max))));
  small.getContext("2d").putImageData(pixels, 0, 0);
  const canvas = find("veil");
  const scale = 512 / Math.max(shown.width, shown.height);
  canvas.width = Math.max(1, Math.round(shown.width * scale));
  canvas.height = Math.max(1, Math.round(shown.height * scale));
  const context = canvas.getContext("2d");
  const [x, y] = [left * canvas.width, top * canvas.height];
  const [width, height] = [(right - left) * canvas.width, (bottom - top) * canvas.height];
  context.globalAlpha = MAX_OPACITY;
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
  document.ondragover = document.ondragleave = document.ondrop = (event) => {
    event.preventDefault();
    find("stage").classList.toggle("over", event.type === "dragover");
    if (event.type === "drop") accept(event.dataTransfer, "The drop");
  };
  document.onpaste = (event) => accept(event.clipboardData, "The clipboard");
  if (!find("draw")) return;
  const sheet = openDrawing(find, () => {
    stop();
    press(null); // its attention belongs to the previous drawing
    timer = setTimeout(caption, PAUSE);
  });
  find("draw").onclick = () => {
    stop();
    clearCaptions("The sheet is empty.");
    show(find("canvas"));
    find("canvas").focus();
    if (!sheet.isEmpty()) caption();
  };
  find("clear").onclick = () => {
    sheet.clear();
    find("draw").onclick();
  };
}

function accept(transfer, source) {
  const [file] = transfer?.files ?? [];
  if (file) return caption(file);
  return complain(
    `${source} contains no picture file. This page loads nothing from other sites: save the picture,` +
      " then choose the file.",
  );
}

const opened = open();
find("app").hidden = false;
listen();
opened.catch((error) => {
  find("app").hidden = true;
  find("problem").textContent = error.message;
  find("problem").hidden = false;
});
