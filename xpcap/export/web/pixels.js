// Scale pictures exactly as Pillow does. A picture is an object with width, height and data, a
// Uint8Array of red, green and blue, row by row.

export const BICUBIC = { support: 2, weight: bicubic };
export const BOX = { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) };
const PRECISION = 22; // bits of a weight: 32, less 8 of a level and 2 for overshoot
const HALF = 1 << (PRECISION - 1);
const WIDEST = 2.25; // maximum aspect ratio of the sheet of `fit`

function bicubic(x) {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

// Round halves to the even neighbour, as Python does.
export function roundEven(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

// Weights of the input pixels that make each output pixel: first pixel, count, fixed-point weights.
function kernels(from, to, filter) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const rows = [];
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), from);
    const weights = new Float64Array(last - first);
    let total = 0;
    for (let k = 0; k < weights.length; k++) {
      weights[k] = filter.weight((k + first - centre + 0.5) * (1 / stretch));
      total += weights[k];
    }
    const fixed = new Int32Array(weights.length);
    for (let k = 0; k < weights.length; k++) {
      const share = total === 0 ? weights[k] : weights[k] / total;
      fixed[k] = Math.trunc(share * 2 ** PRECISION + (share < 0 ? -0.5 : 0.5));
    }
    rows.push({ first, weights: fixed });
  }
  return rows;
}

function clip(sum) {
  const level = sum >> PRECISION;
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

// Scale in two passes, each rounded to whole levels. As in Pillow from version 13 on, the height is
// scaled first if it shrinks by more than twice as many pixels as the width.
export function resize(picture, width, height, filter) {
  const shrunk = picture.height - height;
  const heightFirst = shrunk > 0 && shrunk > 2 * (picture.width - width);
  if (heightFirst) return scaleWidth(scaleHeight(picture, height, filter), width, filter);
  return scaleHeight(scaleWidth(picture, width, filter), height, filter);
}

function scaleWidth(picture, width, filter) {
  if (width === picture.width) return picture;
  const { height, data } = picture;
  const rows = kernels(picture.width, width, filter);
  const out = new Uint8Array(width * height * 3);
  let at = 0;
  for (let y = 0; y < height; y++) {
    const start = y * picture.width * 3;
    for (const { first, weights } of rows) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      let from = start + first * 3;
      for (let k = 0; k < weights.length; k++) {
        r += data[from] * weights[k];
        g += data[from + 1] * weights[k];
        b += data[from + 2] * weights[k];
        from += 3;
      }
      out[at++] = clip(r);
      out[at++] = clip(g);
      out[at++] = clip(b);
    }
  }
  return { width, height, data: out };
}

function scaleHeight(picture, height, filter) {
  if (height === picture.height) return picture;
  const { width, data } = picture;
  const line = width * 3;
  const out = new Uint8Array(line * height);
  kernels(picture.height, height, filter).forEach(({ first, weights }, y) => {
    for (let x = 0; x < line; x++) {
      let sum = HALF;
      for (let k = 0; k < weights.length; k++) sum += data[(first + k) * line + x] * weights[k];
      out[y * line + x] = clip(sum);
    }
  });
  return { width, height, data: out };
}

// Means over blocks of factor x factor pixels; blocks at the right and lower border may be smaller.
export function reduce(picture, factor) {
  if (factor === 1) return picture;
  const width = Math.ceil(picture.width / factor);
  const height = Math.ceil(picture.height / factor);
  const data = new Uint8Array(width * height * 3);
  const sums = new Int32Array(width * 3);
  for (let y = 0; y < height; y++) {
    const bottom = Math.min((y + 1) * factor, picture.height);
    sums.fill(0);
    for (let row = y * factor; row < bottom; row++) {
      let from = row * picture.width * 3;
      for (let x = 0; x < picture.width; x++) {
        const to = 3 * Math.floor(x / factor);
        sums[to] += picture.data[from++];
        sums[to + 1] += picture.data[from++];
        sums[to + 2] += picture.data[from++];
      }
    }
    for (let i = 0; i < sums.length; i++) {
      const left = Math.floor(i / 3) * factor;
      const count = (bottom - y * factor) * (Math.min(left + factor, picture.width) - left);
      const sum = sums[i] + Math.floor(count / 2);
      data[y * width * 3 + i] = Math.floor((sum * Math.floor(2 ** 24 / count)) / 2 ** 24);
    }
  }
  return { width, height, data };
}

// The size of a picture scaled to at most `longest` pixels per side, as by Pillow's thumbnail.
export function thumbnailSize(width, height, longest) {
  if (width <= longest && height <= longest) return [width, height];
  const aspect = width / height;
  const nearest = (number, distance) => {
    const low = Math.floor(number);
    const high = Math.ceil(number);
    return Math.max(distance(low) <= distance(high) ? low : high, 1);
  };
  if (aspect <= 1) {
    return [nearest(longest * aspect, (n) => Math.abs(aspect - n / longest)), longest];
  }
  const distance = (n) => (n === 0 ? 0 : Math.abs(aspect - longest / n));
  return [longest, nearest(longest / aspect, distance)];
}

// Scale a picture to at most `longest` pixels per side. It must be less than four times as long, since
// Pillow reduces longer ones first.
export function thumbnail(picture, longest) {
  const [width, height] = thumbnailSize(picture.width, picture.height, longest);
  return resize(picture, width, height, BICUBIC);
}

// Composite red, green, blue and alpha, 0 to 255, on white, as Pillow does.
export function onWhite(rgba) {
  const data = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      const level = rgba[from + channel];
      const sum = level * alpha + 255 * (255 - alpha) + 128;
      data[to++] = alpha === 255 ? level : ((sum >> 8) + sum) >> 8;
    }
  }
  return data;
}

// ---- Scale pictures to an area

// Height and width of the sheet that `fit` returns, and of the scaled picture on it.
export function fitted(height, width, side) {
  const stretch = Math.sqrt(Math.min(Math.max(height / width, 1 / WIDEST), WIDEST));
  const sheet = [roundEven(side * stretch), roundEven(side / stretch)];
  const scale = Math.min(sheet[0] / height, sheet[1] / width);
  const inner = [height, width].map((size) => Math.max(1, roundEven(size * scale)));
  return { sheet, inner };
}

// Row and column of the sheet where the scaled picture begins.
export function corner(sheet, inner) {
  return [0, 1].map((axis) => Math.floor((sheet[axis] - inner[axis]) / 2));
}

// Scale a picture to the area of a square, padded in the commonest colour of its border.
export function fit(picture, side) {
  const { width, height } = picture;
  const { sheet, inner } = fitted(height, width, side);
  const shrinks = inner[0] * inner[1] < height * width;
  const scaled = resize(picture, inner[1], inner[0], shrinks ? BOX : BICUBIC);
  if (inner[0] === sheet[0] && inner[1] === sheet[1]) return scaled;
  const colour = borderColour(scaled);
  const data = new Uint8Array(sheet[0] * sheet[1] * 3);
  for (let i = 0; i < data.length; i++) data[i] = colour[i % 3];
  const [top, left] = corner(sheet, inner);
  for (let y = 0; y < inner[0]; y++) {
    const row = scaled.data.subarray(y * inner[1] * 3, (y + 1) * inner[1] * 3);
    data.set(row, ((top + y) * sheet[1] + left) * 3);
  }
  return { width: sheet[1], height: sheet[0], data };
}

// The commonest colour along the border of a picture; ties go to the darkest red, green, blue.
export function borderColour({ width, height, data }) {
  const counts = new Map();
  const count = (x, y) => {
    const at = (y * width + x) * 3;
    const code = (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];
    counts.set(code, (counts.get(code) ?? 0) + 1);
  };
  for (let x = 0; x < width; x++) {
    count(x, 0);
    count(x, height - 1);
  }
  for (let y = 0; y < height; y++) {
    count(0, y);
    count(width - 1, y);
  }
  let best = [-1, 0];
  for (const [code, times] of counts) {
    if (times > best[1] || (times === best[1] && code < best[0])) best = [code, times];
  }
  return [best[0] >> 16, (best[0] >> 8) & 255, best[0] & 255];
}
