// A run's captioner for any page. It computes in a worker, off the page's thread.

import "./served.js";
import { readPicture } from "./pictures.js";

export { PictureError } from "./pictures.js";

const FOLDER = new URL(".", import.meta.url);

// Open the captioner of the folder that this module lies in.
//
// onBytes(received, all): called as bytes of its files come in.
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

  // Pixels of a picture, as of pictures.js, which PictureErrors come from.
  read(picture) {
    return readPicture(picture, this.manifest.pictures);
  }

  // The best captions of a picture or of its pixels, the best first. Each has its text, words, gaps
  // after them, probabilities, log_probability, and attention: weights of the regions at each word,
  // if the run has it. area is the part of the picture that the regions lie over. An AbortSignal
  // ends the work: other captions need not wait for it.
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
    throw new Error("captioner.json did not arrive whole. Copy the folder again.");
  });
}

// Made of a blob, so that the page's Content-Security-Policy holds in it: from a URL of its own, a
// worker has the policy of that URL's headers, and a plain server sends none. It answers with id 0
// once its modules are there, which Firefox tells in no other way.
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
  worker.onerror = ({ message }) => stop(new Error(message || "The browser lets no worker start."));
  const loaded = answer(0).catch(async (error) => {
    const why = await globalThis.findUnserved("worker.js", FOLDER);
    throw why ? new Error(why) : error;
  });
  loaded.catch(() => {}); // those who ask are told
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
