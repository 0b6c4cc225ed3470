// A run's captioner for any page. It computes in a worker, so it does not block the page.

import "./served.js";
import { readPicture } from "./pictures.js";

export { PictureError } from "./pictures.js";

const FOLDER = new URL(".", import.meta.url);

// Open the captioner of this module's folder.
//
// onBytes(received, all): called as bytes of its files arrive.
export async function openCaptioner({ onBytes = () => {} } = {}) {
  let received = 0;
  let all = 0;
  const { ask, stop } = startWorker((bytes) => onBytes((received += bytes), all));
  try {
    const manifest = await fetchManifest();
    all = Object.values(manifest.files).reduce((sum, file) => sum + file.stored, 0);
    onBytes(0, all);
    await ask({ kind: "open", manifest });
    return new Captioner(manifest, ask, stop);
  } catch (error) {
    stop(error);
    throw error;
  }
}

class Captioner {
  constructor(manifest, ask, stop) {
    Object.assign(this, { manifest, ask, stop });
  }

  // The pixels of a picture, read by pictures.js. PictureError: it cannot be read.
  read(picture) {
    return readPicture(picture, this.manifest.pictures);
  }

  // The captions of a picture or of its pixels, best first. Each has text, words, gaps after the words,
  // probabilities, log_probability, and attention: the weights of the regions for each word, if the
  // run has attention. area is the part of the picture that the regions cover. An AbortSignal ends
  // the work, so that other captions do not wait for it.
  async caption(picture, { signal } = {}) {
    const pixels = picture?.data instanceof Uint8Array ? picture : await this.read(picture);
    const { width, height, data } = pixels;
    if (data.length !== 3 * width * height) {
      throw new Error(
        `Pixels of a picture ${width} x ${height} are ${data.length} numbers, expected` +
          ` ${3 * width * height}: red, green and blue of each, without alpha.`,
      );
    }
    return this.ask({ kind: "caption", picture: pixels, ends: Boolean(signal) }, signal);
  }

  // End the worker, and free its memory.
  close() {
    this.stop(new Error("The captioner is closed."));
  }
}

async function fetchManifest() {
  const url = new URL("captioner.json", FOLDER);
  const response = await fetch(url, { cache: "no-cache" }).catch(() => null);
  if (!response?.ok) throw new Error("captioner.json is missing. Was the whole folder copied?");
  return response.json().catch(() => {
    throw new Error("captioner.json is incomplete. Copy the folder again.");
  });
}

// The worker is made from a blob, so that it has the page's Content-Security-Policy; a worker from a URL
// has the policy of that URL's headers, and a plain server sends none. It answers with id 0 once its
// modules are loaded, since Firefox has no event for that.
function startWorker(onBytes) {
  const source = `import(${JSON.stringify(new URL("worker.js", FOLDER).href)}).then(
    () => postMessage({ id: 0 }), ({ message: error }) => postMessage({ id: 0, error }))`;
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url, { type: "module" });
  const waiting = new Map();
  let count = 0;
  let stopped = null;
  const answer = (id) => new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  const stop = (error) => {
    stopped ??= error;
    worker.terminate();
    for (const { reject } of waiting.values()) reject(stopped);
    waiting.clear();
  };
  worker.onmessage = ({ data }) => {
    if ("bytes" in data) return onBytes(data.bytes);
    const { resolve, reject } = waiting.get(data.id);
    waiting.delete(data.id);
    return "error" in data ? reject(new Error(data.error)) : resolve(data.result);
  };
  worker.onerror = ({ message }) => stop(new Error(message || "The browser does not let a worker start."));
  const loaded = answer(0).catch(async (error) => {
    const why = await globalThis.findUnserved("worker.js", FOLDER);
    throw why ? new Error(why) : error;
  });
  loaded.catch(() => {}); // `ask` reports the error
  const ask = async (message, signal) => {
    await loaded;
    if (stopped) throw stopped;
    signal?.throwIfAborted();
    const id = ++count;
    signal?.addEventListener("abort", () => waiting.has(id) && worker.postMessage({ end: id }));
    worker.postMessage({ id, ...message });
    return answer(id);
  };
  return { ask, stop };
}
