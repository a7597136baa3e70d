// Files of the user: what they are, and photographs as small as the server takes them.

const BRANDS = { heic: "HEIC", heix: "HEIC", heim: "HEIC", heis: "HEIC", hevc: "HEIC", hevx: "HEIC", mif1: "HEIC", msf1: "HEIC", avif: "AVIF", avis: "AVIF", "jxl ": "JPEG XL" };
const STARTS = [["\x89PNG", ".png"], ["\xff\xd8\xff", ".jpg"], ["\x93NUMPY", ".npy"], ["GIF8", "GIF"], ["II*\0", "TIFF"], ["MM\0*", "TIFF"], ["\xff\x0a", "JPEG XL"], ["\0\0\0\x0cJXL ", "JPEG XL"], ["%PDF", "PDF"]];
const mib = bytes => `${+(bytes / (1 << 20)).toFixed(1)} MiB`;

// By its first bytes, as names are often wrong: an ending that the server may take, or what people call it; or "".
async function kindOf(file) {
  const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 16).arrayBuffer()));
  if (start.startsWith("RIFF") && start.slice(8, 12) === "WEBP") return ".webp";
  if (start.slice(4, 8) === "ftyp") return BRANDS[start.slice(8, 12)] || "";
  return STARTS.find(([bytes]) => start.startsWith(bytes))?.[1] || "";
}

export function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}
export const text = async blob => base64(new Uint8Array(await blob.arrayBuffer()));

// Width and height as it is seen, turned as its camera says, from the file's beginning alone; null where the browser
// cannot open it.
async function sizeOf(file) {
  const image = new Image(), address = URL.createObjectURL(file);
  try {
    await new Promise((done, fail) => Object.assign(image, { onload: done, onerror: fail, src: address }));
    return image.naturalWidth ? [image.naturalWidth, image.naturalHeight] : null;
  } catch { return null; } finally { URL.revokeObjectURL(address); }
}
async function bitmapOf(file, from, to) {
  try {
    return await createImageBitmap(file, { resizeWidth: to[0], resizeHeight: to[1], resizeQuality: "high" });
  } catch { throw new Error(`This browser cannot open a picture of ${from.join(" × ")} pixels; make it smaller first.`); }
}
function painted(width, height, ground) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), pen = canvas.getContext("2d", { alpha: false });
  pen.fillStyle = ground; pen.fillRect(0, 0, width, height);
  return [canvas, pen];
}
const pngOf = canvas => new Promise(done => canvas.toBlob(done, "image/png"));
const unopened = kind => kind && !kind.startsWith(".") ? `This file is ${kind}${kind === "HEIC" ? ", as iPhones take them" : ""}, which this browser cannot open: save it as JPEG first.` : "";

// What is sent of a photograph: the file itself, or where it is larger than `most` or of a kind that the server does not
// take, as many of its pixels as can be drawn -> {blob, name, size, told}; size: width and height, null where it could
// not be opened, of which the server says why.
export async function photograph(file, kinds, most) {
  const kind = await kindOf(file), size = await sizeOf(file);
  if (!size && unopened(kind)) throw new Error(unopened(kind));
  if (!size && file.size > most.bytes) throw new Error(`This file is larger than the ${mib(most.bytes)} that are taken, and no picture that the browser can open, to make it smaller.`);
  if (!size || (kinds.includes(kind) && file.size <= most.bytes && size[0] * size[1] <= most.file_pixels)) return { blob: file, name: file.name, size, told: "" };
  const scale = Math.min(1, Math.sqrt(most.pixels / (size[0] * size[1])));
  const to = size.map(side => Math.max(1, Math.floor(side * scale))), bitmap = await bitmapOf(file, size, to);
  const [canvas, pen] = painted(...to, "#fff"); // what is transparent is white, as in training
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  const told = scale < 1 ? `Made smaller here: ${size.join(" × ")} pixels became ${to.join(" × ")}` : "";
  return { blob: await pngOf(canvas), name: file.name, size: to, told };
}

// What is sent of a file of values, which are not resampled: the file itself, as {blob, name, size, told}.
export async function values(file, what, most) {
  const limits = `at most ${mib(most.bytes)} and ${most.file_pixels / 1e6} megapixels`;
  const no = has => new Error(`This file is larger than that: it has ${has}. ${what} is sent as it is, of ${limits}; other pixels would be other values.`);
  if (file.size > most.bytes) throw no(mib(file.size));
  const size = (await kindOf(file)) === ".npy" ? null : await sizeOf(file);
  if (size && size[0] * size[1] > most.file_pixels) throw no(`${size.join(" × ")} pixels`);
  return { blob: file, name: file.name, size, told: "" };
}

// A picture as large as fits into (width, height), in the middle, at multiples of `step` -> its canvas and place.
export async function fitted(file, width, height, step) {
  const size = await sizeOf(file);
  if (!size) throw new Error(unopened(await kindOf(file)) || "This file is no picture that the browser can open.");
  const scale = Math.min(width / size[0], height / size[1]);
  const [w, h] = size.map(side => Math.max(step, Math.floor(side * scale / step) * step));
  const [left, top] = [width - w, height - h].map(room => Math.floor(room / 2 / step) * step);
  const bitmap = await bitmapOf(file, size, [w, h]), [canvas, pen] = painted(width, height, "#808080");
  pen.fillStyle = "#fff"; pen.fillRect(left, top, w, h);
  pen.drawImage(bitmap, left, top);
  bitmap.close();
  return { canvas, blob: await pngOf(canvas), left, top, w, h };
}
