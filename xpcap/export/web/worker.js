// The captioner off the page's thread, so that the page stays alive while it computes.

import * as ort from "./runtime/ort.js";
import { LoadError, openCaptioner } from "./captioner.js";

let captioner = null;

// `version` keeps a browser from serving another export's file from its cache.
async function fetchFile(path, version, onBytes) {
  let response;
  try {
    response = await fetch(new URL(`${path}?${version}`, import.meta.url));
  } catch {
    throw new LoadError(`${path} cannot be fetched. Is the server still running?`);
  }
  if (!response.ok) {
    throw new LoadError(`${path} is missing (${response.status}). Was the whole folder copied?`);
  }
  const parts = [];
  try {
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parts.push(part.value);
      onBytes(part.value.length);
    }
  } catch {
    throw new LoadError(`${path} did not arrive whole. Load the page again.`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

const handlers = {
  async open({ manifest }) {
    const onBytes = (bytes) => postMessage({ bytes });
    captioner = await openCaptioner(manifest, ort, fetchFile, onBytes);
    // the first caption takes twice as long as others: let it be one that nobody waits for
    await captioner.caption({ width: 1, height: 1, data: Uint8Array.of(255, 255, 255) });
    return {};
  },
  caption: ({ picture }) => captioner.caption(picture),
};

self.onmessage = async ({ data }) => {
  try {
    postMessage({ id: data.id, result: await handlers[data.kind](data) });
  } catch (error) {
    postMessage({ id: data.id, error: error.message ?? String(error) });
  }
};
