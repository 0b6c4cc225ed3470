// The encoder of plain drawings, with the same numbers as xpcap's HistogramEncoder, whose docstring
// describes the feature.

import { borderColour, corner, fit, fitted } from "./pixels.js";

const HUES = [0, 33, 54, 125, 165, 222, 285, 335, 360];
const COLOURS = 3 + HUES.length - 1;
const DIRECTIONS = 12;
const TURNS = DIRECTIONS / 2;
const CELLS = 9;
const BLOCK = 4; // pixels
const BLUR = 0.5; // in cells
const BITS = 6; // of a colour channel
const PAPER = 40; // levels
const FAINT = Math.fround(0.05);
const EDGES_ADDED = 20;

// The feature, and the area that its grid covers, in fractions of the picture's sides.
export function encode(picture, side, grid) {
  const sheet = fit(picture, side);
  const box = drawn(sheet, borderColour(sheet));
  const area = areaOf(picture, side, box);
  const { shares, whole, edges, turns } = measure(sheet, box);
  const cellLayers = shares.map((share, cell) => layersOf(share, edges[cell], turns[cell]));
  if (grid !== null) {
    const rows = cellLayers.map((layers) => joined(layers));
    return { features: joined(pooled(rows, grid)), area };
  }
  const layers = [0, 1, 2].map((k) => joined(cellLayers.map((layer) => layer[k])));
  const all = [...layersOf(whole, total(edges), total(turns)), ...layers, position(box, sheet)];
  return { features: joined(all), area };
}

// Shares of pixels, and edges and turns as shares of the strength of each colour's edges.
function layersOf(share, edges, turns) {
  const strength = Array.from({ length: COLOURS }, (_, colour) => {
    const directions = edges.subarray(colour * DIRECTIONS, (colour + 1) * DIRECTIONS);
    return directions.reduce((sum, edge) => sum + edge, 0) + EDGES_ADDED;
  });
  return [
    share,
    edges.map((edge, i) => edge / strength[Math.floor(i / DIRECTIONS)]),
    turns.map((turn, i) => turn / (4 * strength[Math.floor(i / TURNS)])), // each is in 4 windows
  ];
}

function joined(arrays) {
  const out = new Float32Array(arrays.reduce((size, array) => size + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    out.set(array, at);
    at += array.length;
  }
  return out;
}

function total(layers) {
  return layers.reduce((sum, layer) => sum.map((x, i) => x + layer[i]));
}

// Means of the 3 x 3 cells over grid x grid regions; neighbouring regions may share cells.
function pooled(rows, grid) {
  const bounds = Array.from({ length: grid }, (_, i) => [
    Math.floor((i * 3) / grid),
    Math.ceil(((i + 1) * 3) / grid),
  ]);
  const regions = [];
  for (const [top, bottom] of bounds) {
    for (const [left, right] of bounds) {
      const covered = rows.filter((_, cell) => {
        const [row, column] = [Math.floor(cell / 3), cell % 3];
        return row >= top && row < bottom && column >= left && column < right;
      });
      regions.push(total(covered).map((x) => x / covered.length));
    }
  }
  return regions;
}

const clip01 = (x) => Math.min(Math.max(x, 0), 1);
const clip = (x, low, high) => Math.min(Math.max(x, low), high);

// ---- Colours

const table = new Float32Array(COLOURS * 2 ** (3 * BITS));
const known = new Uint8Array(2 ** (3 * BITS));

// The position in the table of the shares of the 11 colours at a level of red, green and blue.
function mixture(code) {
  const at = code * COLOURS;
  if (known[code]) return at;
  known[code] = 1;
  const f = Math.fround;
  const mask = 2 ** BITS - 1;
  const [r, g, b] = [code >> (2 * BITS), (code >> BITS) & mask, code & mask].map(
    (level) => (level + 0.5) / 2 ** BITS,
  );
  const brightest = Math.max(r, g, b);
  const spread = brightest - Math.min(r, g, b);
  const safe = f(Math.max(spread, 1e-6));
  const modulo6 = (x) => f(x - 6 * Math.floor(x / 6));
  let hue = f(f((r - g) / safe) + 4);
  if (brightest === g) hue = f(f((b - r) / safe) + 2);
  if (brightest === r) hue = modulo6(f((g - b) / safe));
  hue = f(60 * hue);
  const black = clip01(f(f(f(0.4) - brightest) / f(0.15)));
  const saturation = f(spread / f(Math.max(brightest, 1e-6)));
  const vivid = f(clip01(f(f(saturation - f(0.1)) / f(0.15))) * f(1 - black));
  const white = clip01(f(f(brightest - f(0.6)) / f(0.2)));
  let segment = 0;
  while (segment < HUES.length - 2 && hue >= HUES[segment + 1]) segment++;
  const within = (hue - HUES[segment]) / (HUES[segment + 1] - HUES[segment]);
  let place = segment + within;
  const count = HUES.length - 1;
  const light = place > count - 1 ? clip01(f(f(f(0.6) - saturation) / f(0.2))) : 0;
  place -= light * (place - (count - 1)); // light red is pink
  const pale = Math.max(f(f(1 - vivid) - black), 0);
  table.set([black, f(pale * f(1 - white)), f(pale * white)], at);
  for (let i = 0; i < count; i++) {
    const turned = place - i + count / 2;
    const away = Math.abs(turned - count * Math.floor(turned / count) - count / 2);
    table[at + 3 + i] = vivid * clip01(1.5 - 2 * away);
  }
  return at;
}

function codesOf({ width, height, data }) {
  const codes = new Int32Array(width * height);
  const drop = 8 - BITS;
  for (let i = 0; i < codes.length; i++) {
    const [r, g, b] = [data[3 * i] >> drop, data[3 * i + 1] >> drop, data[3 * i + 2] >> drop];
    codes[i] = (r << (2 * BITS)) | (g << BITS) | b;
  }
  return codes;
}

// ---- The drawing on its paper

// The bounding box of everything that is not paper: (first, end) of rows, then of columns.
function drawn({ width, height, data }, paper) {
  const low = paper.map((level) => clip(level - PAPER, 0, 255));
  const high = paper.map((level) => clip(level + PAPER, 0, 255));
  const box = [
    [height, -1],
    [width, -1],
  ];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = (y * width + x) * 3;
      if ([0, 1, 2].some((c) => data[at + c] < low[c] || data[at + c] > high[c])) {
        box[0] = [Math.min(box[0][0], y), Math.max(box[0][1], y)];
        box[1] = [Math.min(box[1][0], x), Math.max(box[1][1], x)];
      }
    }
  }
  return box.map(([first, last], axis) => {
    const pixels = axis ? width : height;
    return last < 0 ? [0, pixels] : [Math.max(first - 1, 0), Math.min(last + 2, pixels)];
  });
}

function areaOf(picture, side, box) {
  const { sheet, inner } = fitted(picture.height, picture.width, side);
  const first = corner(sheet, inner);
  const [[top, bottom], [left, right]] = box.map((span, axis) =>
    span.map((at) => (at - first[axis]) / inner[axis]),
  );
  return { top, left, bottom, right };
}

// The drawing's middle on the sheet, as shares of nine cells, and its relative size.
function position(box, { width, height }) {
  const spans = [height, width].map((pixels, axis) =>
    thirds((box[axis][0] + box[axis][1]) / 2, 0, pixels),
  );
  const middle = spans[0].flatMap((down) => spans[1].map((across) => Math.fround(down * across)));
  return [...middle, ...box.map(([start, stop]) => (stop - start) / Math.sqrt(height * width))];
}

// How far a position belongs to each third of start..stop; they sum to 1.
function thirds(at, start, stop) {
  const third = (at - start) * (3 / (stop - start));
  const first = clip01((1 + BLUR / 2 - third) / BLUR);
  const last = clip01((third - 2 + BLUR / 2) / BLUR);
  return [first, 1 - first - last, last].map(Math.fround);
}

// ---- Shares, edges and turns

const cells = (size) => Array.from({ length: CELLS }, () => new Float64Array(size));

function measure(sheet, box) {
  const codes = codesOf(sheet);
  const [[top, bottom], [left, right]] = box;
  const areas = cells(COLOURS);
  const columns = [];
  for (let x = left; x < right; x++) columns.push(thirds(x + 0.5, left, right));
  for (let y = top; y < bottom; y++) {
    const rows = thirds(y + 0.5, top, bottom);
    for (let x = left; x < right; x++) {
      const at = mixture(codes[y * sheet.width + x]);
      for (let cell = 0; cell < CELLS; cell++) {
        const weight = rows[Math.floor(cell / 3)] * columns[x - left][cell % 3];
        if (!weight) continue;
        const area = areas[cell];
        for (let c = 0; c < COLOURS; c++) area[c] += weight * table[at + c];
      }
    }
  }
  const pixels = (bottom - top) * (right - left);
  const paper = mixture(codesOf({ width: 1, height: 1, data: borderColour(sheet) })[0]);
  const root = (x) => Math.sqrt(Math.max(x, 0));
  const whole = total(areas).map((area, c) =>
    root((area + (codes.length - pixels) * table[paper + c]) / codes.length),
  );
  const shares = areas.map((area) => area.map((x) => root((x * CELLS) / pixels)));
  return { shares, whole, ...outlines(codes, sheet, box) };
}

// Edges of each cell and colour by direction (9, 11 * 12), and pairs by turn (9, 11 * 6).
function outlines(codes, { width, height }, box) {
  const across = Math.floor(width / BLOCK) + 1;
  const blocks = new Map(); // block and colour to a histogram of directions
  const windows = new Map(); // of 2 x 2 blocks
  const add = (map, row, column, colour, direction, early, late) => {
    const key = (row * across + column) * COLOURS + colour;
    let histogram = map.get(key);
    if (!histogram) map.set(key, (histogram = new Float64Array(DIRECTIONS)));
    histogram[direction] += early;
    histogram[(direction + 1) % DIRECTIONS] += late;
  };
  const f = Math.fround;
  const unit = f(DIRECTIONS / (2 * Math.PI));
  for (let y = 1; y < height - 1; y++) {
    for (let x = 1; x < width - 1; x++) {
      const at = y * width + x;
      const [left, right, up, down] = [at - 1, at + 1, at - width, at + width].map((i) => codes[i]);
      if (left === right && up === down) continue;
      const [l, r, u, d] = [left, right, up, down].map(mixture);
      for (let colour = 0; colour < COLOURS; colour++) {
        const dx = f(table[r + colour] - table[l + colour]);
        const dy = f(table[d + colour] - table[u + colour]);
        const strength = f(Math.sqrt(dx * dx + dy * dy));
        if (strength <= FAINT) continue;
        let angle = f(f(Math.atan2(dy, dx)) * unit);
        if (angle < 0) angle = f(angle + DIRECTIONS);
        const whole = Math.floor(angle);
        const late = f(strength * f(angle - whole));
        const early = f(strength - late);
        const direction = whole % DIRECTIONS;
        const [row, column] = [Math.floor(y / BLOCK), Math.floor(x / BLOCK)];
        add(blocks, row, column, colour, direction, early, late);
        for (const [dr, dc] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
          const [above, before] = [Math.max(row - dr, 0), Math.max(column - dc, 0)];
          add(windows, above, before, colour, direction, early, late);
        }
      }
    }
  }
  const edges = cells(COLOURS * DIRECTIONS);
  const turns = cells(COLOURS * TURNS);
  const collect = (map, size, into, of) => {
    for (const [key, histogram] of map) {
      const block = Math.floor(key / COLOURS);
      const colour = key % COLOURS;
      const [down, along] = [Math.floor(block / across), block % across].map((k, axis) =>
        thirds(k * BLOCK + (size * BLOCK) / 2, ...box[axis]),
      );
      const values = of(histogram);
      for (let cell = 0; cell < CELLS; cell++) {
        const weight = f(down[Math.floor(cell / 3)] * along[cell % 3]);
        if (!weight) continue;
        values.forEach((value, i) => (into[cell][colour * values.length + i] += weight * value));
      }
    }
  };
  collect(blocks, 1, edges, (histogram) => histogram);
  collect(windows, 2, turns, (histogram) => {
    const roots = histogram.map(Math.sqrt);
    return Array.from({ length: TURNS }, (_, t) =>
      roots.reduce(
        (sum, root, d) => sum + root * roots[(d - t - 1 + DIRECTIONS) % DIRECTIONS],
        0,
      ),
    );
  });
  return { edges, turns };
}
