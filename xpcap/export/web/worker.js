// Runs the engine in a worker, so that the page stays responsive.

import * as ort from "./runtime/ort.js";
import { openEngine } from "./engine.js";

let engine = null;
const ended = new Set(); // captions that are no longer wanted
const { port1, port2 } = new MessageChannel();
port1.start();

// Process pending messages, which may end a caption.
const messages = () => new Promise((go) => {
  port1.addEventListener("message", go, { once: true });
  port2.postMessage(null);
});

const handlers = {
  async open({ manifest }) {
    engine = await openEngine(manifest, ort, (bytes) => postMessage({ bytes }));
    // The first caption takes twice as long as others, so caption a blank picture first
    await engine.caption({ width: 1, height: 1, data: Uint8Array.of(255, 255, 255) });
    return {};
  },
  async caption({ id, picture, ends }) {
    if (!ends) return engine.caption(picture);
    return engine.caption(picture, async () => {
      await messages();
      if (ended.delete(id)) throw new Error("The caption is no longer wanted.");
    });
  },
};

self.onmessage = async ({ data }) => {
  if ("end" in data) return ended.add(data.end);
  try {
    postMessage({ id: data.id, result: await handlers[data.kind](data) });
  } catch (error) {
    postMessage({ id: data.id, error: error.message ?? String(error) });
  }
};
