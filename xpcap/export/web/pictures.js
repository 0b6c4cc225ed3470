// Read picture files by the browser's decoders like xpcap's read_picture: upright, in colour, on white,
// at most `longest` pixels wide and high.

import { onWhite, reduce, thumbnail } from "./pixels.js";

const WIDEST = 16384; // pixels; every browser's canvas can be as wide
const STRIP = 1 << 22; // pixels copied from a canvas at a time
const WHY = { // why browsers do not decode a file, by kind
  svg: "This is an SVG drawing, which is made of shapes, not of pixels. Save it as PNG first.",
  heic:
    "This is a HEIC picture, as iPhones make them, which this browser does not read." +
    " Save it as JPEG first.",
  video:
    "This seems to be a video, or a camera's RAW file. Choose a JPEG, PNG, WebP or GIF," +
    " such as a frame of the video.",
  other: "This file cannot be read as a picture. Choose a JPEG, PNG, WebP or GIF.",
};

export class PictureError extends Error {
  name = "PictureError";
}

// Read a File or Blob, or decoded pixels: ImageData, a canvas, an image, a video's frame.
// PictureError : it is not a picture, or too large.
export async function readPicture(picture, limits) {
  const fraction = picture instanceof Blob ? await fractionAllowed(picture, limits) : 1;
  let bitmap;
  try {
    bitmap = await createImageBitmap(picture, { colorSpaceConversion: "none" });
  } catch (error) {
    if (!(picture instanceof Blob)) throw error;
    throw new PictureError(
      "The picture cannot be decoded. It is damaged, or takes more memory than is free.",
    );
  }
  try {
    return shrunk(bitmap, fraction, limits.longest);
  } finally {
    bitmap.close();
  }
}

// The fraction of its size at which xpcap decodes a file. PictureError : it exceeds the limits.
async function fractionAllowed(blob, limits) {
  if (!blob.size) throw new PictureError("The file is empty. Was it copied only in part?");
  if (blob.size > limits.most_bytes) {
    const most = limits.most_bytes / 2 ** 20;
    throw new PictureError(`The file has more than ${most} MB. Is it a picture?`);
  }
  const kind = await kindOf(blob);
  if (kind === "svg") throw new PictureError(WHY.svg);
  const [width, height] = await sizeOf(blob, WHY[kind] ?? WHY.other);
  const shrink = kind === "jpeg" ? fractionOf(width, height, limits.longest) : 1;
  const times = kind === "webp" || kind === "avif" ? 2 : 1; // these take twice the memory when decoded
  const pixels = Math.ceil(width / shrink) * Math.ceil(height / shrink) * times;
  if (pixels > limits.most_pixels || width * height > 2 * limits.most_pixels) {
    const most = Math.round(limits.most_pixels / 1e6);
    throw new PictureError(
      `The picture has ${width} × ${height} pixels, more than the ${most} million that can be` +
        " read here. Scale it down first.",
    );
  }
  if (width > WIDEST) {
    throw new PictureError(
      `The picture is ${width} pixels wide, more than the ${WIDEST} that a browser holds.` +
        " Scale it down first.",
    );
  }
  return shrink;
}

// Width and height; browsers read only the header of an image element that is not shown.
async function sizeOf(blob, why) {
  const image = new Image();
  const url = URL.createObjectURL(blob);
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = reject;
      image.src = url;
    });
  } catch {
    throw new PictureError(why);
  } finally {
    URL.revokeObjectURL(url);
  }
  return [image.naturalWidth, image.naturalHeight];
}

async function kindOf(blob) {
  const bytes = new Uint8Array(await blob.slice(0, 4096).arrayBuffer());
  const text = String.fromCharCode(...bytes);
  if (/^(\xef\xbb\xbf)?\s*<(?!(!doctype )?html)([^]*<)?svg\b/i.test(text)) return "svg";
  if (text.startsWith("\xff\xd8\xff")) return "jpeg";
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") return "webp";
  if (text.slice(4, 8) !== "ftyp") return "";
  const brands = text.slice(8, 64).match(/.{4}/gs) ?? [];
  if (brands.some((brand) => brand === "avif" || brand === "avis")) return "avif";
  return brands.some((brand) => /^(hei[cxms]|hev[cx]|mif1|msf1)$/.test(brand)) ? "heic" : "video";
}

// A JPEG is decoded at an eighth, a quarter or half of its size if that is enough.
function fractionOf(width, height, longest) {
  const wanted = Math.max(1, Math.max(width, height) / longest);
  const scale = Math.min(
    Math.floor(width / Math.ceil(width / wanted)),
    Math.floor(height / Math.ceil(height / wanted)),
  );
  return [8, 4, 2].find((fraction) => scale >= fraction) ?? 1;
}

// The pixels of a bitmap, in strips, since a large bitmap may not fit into a canvas.
function shrunk(bitmap, fraction, longest) {
  const { width, height } = bitmap;
  const after = Math.ceil(Math.max(width, height) / fraction);
  const factor = Math.max(1, Math.floor(after / (2 * longest)));
  const step = fraction * factor;
  const rows = Math.min(height, step * Math.max(1, Math.floor(STRIP / (width * step))));
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = rows;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new PictureError("This browser gave no canvas to read the picture with.");
  const parts = [];
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    const data = onWhite(context.getImageData(0, 0, width, count).data);
    parts.push(reduce(reduce({ width, height: count, data }, fraction), factor));
  }
  const size = parts.reduce((sum, part) => sum + part.data.length, 0);
  const whole = { width: parts[0].width, height: 0, data: new Uint8Array(size) };
  for (const part of parts) {
    whole.data.set(part.data, whole.height * whole.width * 3);
    whole.height += part.height;
  }
  return thumbnail(whole, longest);
}
