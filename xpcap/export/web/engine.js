// Captions pictures with a run's encoder, model and reranking. Runs in a worker.

import { normalise, search } from "./decode.js";
import { encode } from "./histogram.js";
import { Reranker, readTensors, repeats } from "./reranking.js";

const FORMAT = 3; // of captioner.json
const AGAIN = "Load the page again; if that does not help, copy the complete folder again.";

// Open the engine that a manifest describes.
//
// ort: the module of ONNX Runtime Web. onBytes(count): called as bytes of files arrive.
export async function openEngine(manifest, ort, onBytes) {
  if (manifest.format !== FORMAT) {
    throw new Error(
      `captioner.json has the format ${manifest.format}, and this page reads ${FORMAT}: the` +
        " folder is a mixture of two exports. Export the run again, to a new folder.",
    );
  }
  const names = Object.keys(manifest.files);
  const contents = await Promise.all(
    Object.values(manifest.files).map(async (file) => unpack(file, await fetchFile(file, onBytes))),
  );
  const files = Object.fromEntries(names.map((name, i) => [name, contents[i]]));
  ort.env.wasm.numThreads = 1; // threads need headers that a plain server does not send
  ort.env.wasm.proxy = false;
  ort.env.wasm.wasmBinary = files["ort.wasm"];
  ort.env.logLevel = "error";
  const open = (name) => ort.InferenceSession.create(files[name], { executionProviders: ["wasm"] });
  const sessions = {};
  const graphs = names.filter((name) => name.endsWith(".onnx"));
  for (const name of graphs) sessions[name] = await open(name);
  const tensors = files["reranking.safetensors"];
  const { reranking, special } = manifest;
  const reranker = tensors ? new Reranker(readTensors(tensors), reranking, special) : null;
  return new Engine(manifest, ort, sessions, reranker);
}

// The digest in the URL keeps a browser from using another export's file from its cache.
async function fetchFile({ path, sha256 }, onBytes) {
  const url = new URL(`${path}?${sha256.slice(0, 16)}`, import.meta.url);
  const response = await fetch(url).catch(() => {
    throw new Error(`${path} cannot be fetched. Is the server still running?`);
  });
  if (!response.ok) {
    throw new Error(`${path} is missing (${response.status}). Was the whole folder copied?`);
  }
  const parts = [];
  try {
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parts.push(part.value);
      onBytes(part.value.length);
    }
  } catch {
    throw new Error(`${path} is incomplete. ${AGAIN}`);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// Check and unpack a file of the manifest. With two planes, bytes at even positions are stored first,
// then those at odd ones.
export async function unpack({ path, planes, bytes, stored, sha256 }, packed) {
  if (packed.length !== stored) {
    throw new Error(`${path} is incomplete: ${packed.length} of ${stored} bytes. ${AGAIN}`);
  }
  if (globalThis.crypto?.subtle) {
    // Not available on http pages of other machines
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", packed));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== sha256) throw new Error(`${path} is damaged, or of another export. ${AGAIN}`);
  }
  let split;
  try {
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    split = new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Error(`${path} is damaged. ${AGAIN}`);
  }
  if (split.length !== bytes) throw new Error(`${path} is damaged. ${AGAIN}`);
  if (planes === 1) return split;
  const content = new Uint8Array(bytes);
  let from = 0;
  for (let first = 0; first < planes; first++) {
    for (let to = first; to < bytes; to += planes) content[to] = split[from++];
  }
  return content;
}

class Engine {
  constructor(manifest, ort, sessions, reranker) {
    Object.assign(this, { manifest, ort, sessions, reranker });
    this.V = manifest.vocabulary.length;
  }

  // The best captions of a picture of pixels.js, in the form of `caption` of captioner.js.
  // before() is awaited before each word; an error that it throws ends the search.
  async caption(picture, before = () => {}) {
    const { features, area } = await this.encode(picture);
    const beginning = await this.start(features);
    const { policy, special } = this.manifest;
    const candidates = await search(this.stepper(beginning, before), this.V, special, policy);
    let reranked = candidates;
    if (this.reranker) {
      const likelihood = (captions) => this.logLikelihoods(beginning, captions, before);
      const allowed = (words) => words.length < policy.max_length &&
        !words.some((word) => policy.forbid.includes(word)) &&
        !(policy.no_stutter && repeats(words));
      reranked = await this.reranker.rerank(
        beginning.projected,
        beginning.norm,
        candidates,
        likelihood,
        allowed,
      );
    }
    const best = reranked.slice(0, this.manifest.best);
    const attention = this.manifest.attends ? await this.attention(beginning, best) : [];
    const captions = best.map((candidate, i) => {
      return { ...this.text(candidate), attention: attention[i] ?? null };
    });
    return { captions, area };
  }

  // The encoder's features (1, ...) of a picture, not scaled.
  async encode(picture) {
    const { kind, side, grid } = this.manifest.encoder;
    if (kind === "histogram") {
      const { features, area } = encode(picture, side, grid);
      const shape = grid === null ? [features.length] : [grid ** 2, features.length / grid ** 2];
      return { features: new this.ort.Tensor("float32", features, [1, ...shape]), area };
    }
    const { width, height, data } = picture; // of any size: the graph scales it
    const pixels = new this.ort.Tensor("uint8", data, [1, height, width, 3]);
    const { features } = await this.sessions["encoder.onnx"].run({ pixels });
    return { features, area: { top: 0, left: 0, bottom: 1, right: 1 } };
  }

  // The model's arrays of a hypothesis before the first word: state and constants.
  async start(features) {
    const out = await this.sessions["start.onnx"].run({ features });
    const pick = (names) => Object.fromEntries(names.map((name) => [name, out[name]]));
    const { state, constants } = this.manifest.model;
    return {
      state: pick(state),
      constants: pick(constants),
      projected: out.projected?.data,
      norm: out.norm?.data[0],
    };
  }

  // A time step of the model: hypotheses that continue rows `parents` of `state` read `words`.
  async step(constants, state, words, parents) {
    const ids = BigInt64Array.from(words, BigInt);
    const feeds = { words: new this.ort.Tensor("int64", ids, [words.length]) };
    for (const [name, tensor] of Object.entries(state)) {
      feeds[name] = this.rows(tensor, parents ?? words.map(() => 0));
    }
    for (const [name, tensor] of Object.entries(constants)) {
      feeds[name] = this.rows(tensor, words.map(() => 0));
    }
    const out = await this.sessions["step.onnx"].run(feeds);
    const next = Object.keys(state).map((name) => [name, out[`next_${name}`]]);
    return {
      logs: normalise(out.scores.data, this.V),
      attention: out.attention?.data,
      state: Object.fromEntries(next),
    };
  }

  // Rows of a tensor (n, ...), by number.
  rows({ data, dims }, numbers) {
    const size = data.length / dims[0];
    const out = new Float32Array(numbers.length * size);
    numbers.forEach((row, i) => out.set(data.subarray(row * size, (row + 1) * size), i * size));
    return new this.ort.Tensor("float32", out, [numbers.length, ...dims.slice(1)]);
  }

  // The function `next` of `search`.
  stepper({ state, constants }, before) {
    return async (words, parents) => {
      await before();
      const step = await this.step(constants, state, words, parents);
      state = step.state;
      return step.logs;
    };
  }

  // Run the model on given captions together; visit(t, row, step) is called for word t of each.
  async along(next, captions, visit) {
    const { special } = this.manifest;
    const longest = Math.max(...captions.map((words) => words.length));
    for (let t = 0; t <= longest; t++) {
      const words = captions.map((ids) => (t ? ids[t - 1] ?? special.end : special.start));
      const step = await next(words, t ? captions.map((_, row) => row) : null);
      captions.forEach((ids, row) => t <= ids.length && visit(t, row, step));
    }
  }

  // Log-probabilities of the words of captions, including END.
  async logLikelihoods(beginning, captions, before) {
    const logLikelihoods = captions.map(() => []);
    await this.along(this.stepper(beginning, before), captions, (t, row, logs) => {
      const word = captions[row][t] ?? this.manifest.special.end;
      logLikelihoods[row].push(logs[row * this.V + word]);
    });
    return logLikelihoods;
  }

  // Attention weights of the regions for each word of captions.
  async attention({ state, constants }, candidates) {
    const captions = candidates.map(({ words }) => words);
    const weights = captions.map(() => []);
    const next = async (words, parents) => {
      const step = await this.step(constants, state, words, parents);
      state = step.state;
      return step.attention;
    };
    await this.along(next, captions, (t, row, attention) => {
      const regions = attention.length / captions.length;
      if (t < captions[row].length) {
        weights[row].push(Array.from(attention.slice(row * regions, (row + 1) * regions)));
      }
    });
    return weights;
  }

  // A candidate with its words as text, and the space after each.
  text({ words, probabilities, log_probability }) {
    const { vocabulary, unspaced } = this.manifest;
    const alone = words.map((id) => unspaced.includes(id));
    const gaps = words.map((_, i) => {
      if (i === words.length - 1) return "";
      return alone[i] && alone[i + 1] ? "" : " ";
    });
    const named = words.map((id) => vocabulary[id]);
    const text = named.map((word, i) => word + gaps[i]).join("");
    return { text, words: named, gaps, probabilities, log_probability };
  }
}
