// The engine off the page's thread, so that the page stays alive while it computes.

import * as ort from "./runtime/ort.js";
import { openEngine } from "./engine.js";

let engine = null;

const handlers = {
  async open({ manifest }) {
    engine = await openEngine(manifest, ort, (bytes) => postMessage({ bytes }));
    // the first caption takes twice as long as others: let it be one that nobody waits for
    await engine.caption({ width: 1, height: 1, data: Uint8Array.of(255, 255, 255) });
    return {};
  },
  caption: ({ picture }) => engine.caption(picture),
};

self.onmessage = async ({ data }) => {
  try {
    postMessage({ id: data.id, result: await handlers[data.kind](data) });
  } catch (error) {
    postMessage({ id: data.id, error: error.message ?? String(error) });
  }
};
