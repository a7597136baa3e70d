// The page: what can be asked for, asking, watching, and what came of it.
import { Boxes, Easel } from "./easel.js";
import * as files from "./files.js";

const by = id => document.getElementById(id);
const TITLES = { segmentation: "Paint what should be where", class_label: "Choose what to draw", boxes: "Say where things are", points: "Say where things are", none: "Nothing to say", coordinate: "Nothing to say" };
const WHAT = { depth: "A depth map", pose: "A map of key points" };
const KEPT = "taming_jax drawings", MOST_KEPT = 24, EVERY = 300;
let about, model, height, width;
let upload = null, opening = null; // the file to send, and what becomes it
let shown = null; // the drawing that is seen: {name, told, number}
let seed; // of the map that was not painted
let editing = null; // {base, number, top, left, picture, height, width}: a picture of which a part is drawn again
let drawing = null; // the name of the one that was asked for here and is not over

const map = new Easel(by("map"), by("width"), say);
const mask = new Easel(by("mask"), by("mask-width"), say);
const boxes = new Boxes(by("boxes"), by("category"), listBoxes);
mask.value = 1;

function say(text, wrong = false) { by("say").textContent = text; by("say").classList.toggle("wrong", wrong); }
function guarded(work) { return (...all) => Promise.resolve().then(() => work(...all)).catch(error => say(error.message, true)); }
async function ask(path, fields, body) {
  let answer;
  try {
    answer = await fetch(path + "?" + new URLSearchParams(fields), body === undefined ? {} : { method: "POST", body });
  } catch { throw new Error("The server does not answer. Is it still running?"); }
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `The server says ${answer.status}.`);
  return answer;
}
const url = (path, fields) => path + "?" + new URLSearchParams(fields);
// --- what is asked for

function chooseModel(number) {
  model = about.models[number];
  model.number = number;
  const kind = model.kind, file = model.files.length && !["segmentation", "boxes", "points"].includes(kind);
  by("ask-title").textContent = TITLES[kind] || "Give it a picture to follow";
  by("paint").hidden = kind !== "segmentation";
  by("by-class").hidden = !model.classes.length;
  by("objects").hidden = !model.categories.length;
  by("by-file").hidden = !file;
  by("ask").hidden = ["none", "coordinate"].includes(kind);
  by("drop-text").textContent = `Drop a file here, or choose one: ${{ depth: "a depth map", edges: "a photograph, whose edges are kept", low_res: "a small picture, to be made larger", pose: "a map of key points", image: "a picture" }[kind]} (${model.files.filter(f => [".png", ".jpg", ".webp", ".npy"].includes(f)).join(", ")})`;
  by("upload").accept = model.files.join(",");
  by("example").hidden = !model.examples;
  by("class").replaceChildren(...model.classes.map((name, i) => new Option(name, i)));
  const alone = kind === "class_label", several = alone && model.classes.length > 1 && model.classes.length <= about.most.pictures;
  if (several) by("class").prepend(new Option(`One of each (${model.classes.length})`, ""));
  if (model.class_from_map) by("class").prepend(new Option("As the map says", ""));
  if (alone && model.guided) by("class").append(new Option("Any", model.classes.length));
  by("class").selectedIndex = several ? 1 : 0;
  by("category").replaceChildren(...model.categories.map(name => new Option(name)));
  for (const field of document.querySelectorAll(".guiding")) field.hidden = !model.guided;
  by("guidance_schedule").replaceChildren(...model.schedules.map(name => new Option(name)));
  for (const id of ["steps", "choice_temperature"]) by(id).parentElement.hidden = !(id in model.sample);
  setFilters(model.sample);
  by("n").max = about.most.pictures;
  by("stride").replaceChildren();
  boxes.things = []; boxes.most = model.most_objects;
  upload = null; by("upload-seen").hidden = true;
  brushes();
  sizes();
  listBoxes();
}
function brushes() {
  by("brushes").querySelectorAll("label").forEach(old => old.remove());
  model.labels.forEach((label, i) => {
    const chip = document.createElement("label"), radio = document.createElement("input"), spot = document.createElement("span");
    radio.type = "radio"; radio.name = "brush"; radio.checked = i === 0;
    radio.addEventListener("change", () => { map.value = i; });
    spot.style.background = `rgb(${label.colour})`;
    chip.append(radio, spot, label.name);
    by("brushes").append(chip);
  });
  map.value = 0;
}
map.choose = number => {
  const radio = by("brushes").querySelectorAll("input")[number];
  if (radio) { radio.checked = true; map.value = number; say(model.labels[number].name); }
};
function sizes() {
  const [h, w] = model.sides, parts = model.any_size ? [[1, 1], [1, 2], [2, 2], [2, 4], [2, 6], [4, 4], [4, 8], [8, 8], [8, 16], [8, 32]] : [[1, 1]];
  const fitting = parts.filter(([y, x]) => h * y * w * x <= about.most.pixels && w * x <= 4096);
  const preferred = model.kind === "segmentation" ? [2, 4] : [1, 1];
  by("size").replaceChildren(...fitting.map(([y, x]) => new Option(`${w * x} × ${h * y}`, `${h * y}x${w * x}`, false, y === preferred[0] && x === preferred[1])));
  if (model.any_size) by("size").append(new Option("Other…", ""));
  for (const id of ["size-w", "size-h"]) { by(id).step = model.factor; by(id).min = id === "size-w" ? w : h; }
  readSize();
  if (model.kind !== "segmentation") return boxes.size(height, width);
  map.set(new Uint8Array(height * width), height, width, colours());
  seed = model.first_map;
  guarded(exampleMap)();
}
// height and width from what is chosen; whether they are others than before
function readSize() {
  const other = by("size").value === "", was = [height, width];
  by("other-size").hidden = !other;
  if (other) {
    const least = { "size-w": model.sides[1], "size-h": model.sides[0] };
    for (const id of ["size-w", "size-h"]) by(id).value = Math.max(least[id], Math.round((by(id).value || (id === "size-w" ? width : height)) / model.factor) * model.factor);
    [height, width] = [+by("size-h").value, +by("size-w").value];
    if (height * width > about.most.pixels) throw new Error(`${width} × ${height} are more than the ${about.most.pixels} pixels that are drawn at once.`);
  } else [height, width] = by("size").value.split("x").map(Number);
  layout();
  return was[0] !== height || was[1] !== width;
}
function setSize(h, w) {
  const value = `${h}x${w}`, known = [...by("size").options].some(option => option.value === value);
  by("size").value = known ? value : "";
  by("size-w").value = w; by("size-h").value = h;
  readSize();
}
// No higher than about half of the window, so that what is asked for and what is drawn are seen together.
function fit(element, h, w) { element.style.maxWidth = `${Math.round(52 * w / h)}vh`; }
function layout() {
  for (const canvas of ["map", "boxes", "mask"]) fit(by(canvas).parentElement, height, width);
  document.querySelector("main").className = ["none", "coordinate", "class_label"].includes(model.kind) ? "plain" : width > 1.7 * height ? "wide" : "";
  const larger = height > model.sides[0] || width > model.sides[1], strides = [1, 2, 4, 8].filter(n => n <= Math.min(...model.sides) / model.code / 2);
  by("stride-of").hidden = !larger;
  if (!by("stride").options.length) by("stride").replaceChildren(...strides.map(n => new Option(n === 1 ? "1, exact" : `${n}, faster`, n)));
}
const colours = () => model.labels.map(label => label.colour);
// A map of the present size from the server; null where, when it comes, another size is wanted.
async function mapFrom(path, fields, body) {
  const was = [model, height, width], answer = await ask(path, fields, body);
  const values = new Uint8Array(await answer.arrayBuffer());
  return was[0] === model && was[1] === height && was[2] === width ? values : null;
}
// Unless, until it comes, something is painted or another map is there.
async function exampleMap() {
  const before = map.before;
  const values = await mapFrom("example", { model: model.number, height, width, seed });
  if (values && map.before === before) map.set(values, height, width, colours());
}
// Each pixel of a map of another size: by nearest neighbour.
function resized(values, h, w) {
  const out = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) out[y * width + x] = values[Math.floor(y * h / height) * w + Math.floor(x * w / width)];
  return out;
}
function listBoxes() {
  boxes.show();
  by("add-box").disabled = boxes.things.length >= boxes.most;
  by("box-list").replaceChildren(...boxes.things.map((thing, i) => {
    const line = document.createElement("li"), kind = document.createElement("select"), gone = document.createElement("button");
    kind.append(...model.categories.map(name => new Option(name, name, false, name === thing.category)));
    kind.setAttribute("aria-label", `Kind of box ${i + 1}`);
    kind.onchange = () => { thing.category = kind.value; boxes.show(); };
    const numbers = thing.box.map((value, k) => {
      const input = document.createElement("input");
      Object.assign(input, { type: "number", min: k > 1 ? 1 : 0, max: 100, value: Math.round(100 * value) });
      input.setAttribute("aria-label", `${["Left", "Top", "Width", "Height"][k]} of box ${i + 1} in percent`);
      input.onchange = () => {
        thing.box[k] = Math.min(1, Math.max(k > 1 ? .01 : 0, input.value / 100));
        thing.box[2 + k % 2] = Math.min(thing.box[2 + k % 2], 1 - thing.box[k % 2]);
        listBoxes();
      };
      return input;
    });
    gone.type = "button"; gone.textContent = "×"; gone.setAttribute("aria-label", `Remove box ${i + 1}`);
    gone.onclick = () => { boxes.things.splice(i, 1); listBoxes(); by("add-box").focus(); };
    line.append(kind, ...numbers, gone);
    return line;
  }));
}
// A file that was chosen, in the form in which it is sent. Of several the last counts, as of several models.
const choose = guarded(file => {
  if (!file) return;
  upload = null; by("upload-seen").hidden = true;
  return opening = open(file);
});
async function open(file) {
  const was = model, seen = by("upload-seen"), most = about.most;
  say("Opening the file");
  const sent = model.photographs ? await files.photograph(file, model.files, most) : await files.values(file, WHAT[model.kind] || "This file", most);
  const text = await files.text(sent.blob);
  if (was !== model || by("by-file").hidden) return;
  upload = { text, name: sent.name };
  by("drop-text").textContent = sent.name;
  seen.hidden = !sent.size;
  URL.revokeObjectURL(seen.src);
  if (sent.size) {
    seen.src = URL.createObjectURL(sent.blob);
    const [w, h] = sent.size;
    if (model.any_size) {
      let scale = Math.max(model.kind === "low_res" ? model.scale : 1, model.sides[0] / h, model.sides[1] / w);
      scale = Math.min(scale, Math.sqrt(about.most.pixels / 8 / (h * w)));
      const side = (natural, least) => Math.max(least, Math.round(natural * scale / model.factor) * model.factor);
      setSize(side(h, model.sides[0]), side(w, model.sides[1]));
    }
  }
  say(sent.told);
}

const fieldsOf = filters => Object.keys(filters).filter(name => by(name)); // that have one field; the interval has two
function setFilters(filters) {
  for (const name of fieldsOf(filters)) {
    const field = by(name), value = filters[name] ?? (field.placeholder ? "" : 1);
    if (value > +field.max && field.max) field.max = value; // as it was saved with the model
    field.value = value;
    if (field.validity.stepMismatch) field.step = "any";
  }
  ["guidance_first", "guidance_end"].forEach((id, i) => by(id).value = filters.guidance_interval[i] ?? "");
}

function wanted() {
  const number = id => by(id).value === "" ? null : +by(id).value;
  const value = id => by(id).type === "number" ? number(id) : by(id).value;
  const fields = { model: model.number, height, width, stride: by("stride-of").hidden ? 1 : number("stride"), ...Object.fromEntries(["n", "seed", ...fieldsOf(model.sample)].map(id => [id, value(id)])) };
  const interval = ["guidance_first", "guidance_end"].map(number);
  if (interval.some(place => place !== null)) interval.forEach((place, i) => interval[i] = place ?? [0, 2 ** 31 - 1][i]); else interval.length = 0;
  fields.guidance_interval = interval;
  if (model.kind === "segmentation") fields.labels = files.base64(map.values);
  if (model.classes.length) fields.class = number("class");
  if (model.categories.length) fields.objects = boxes.things;
  if (!by("by-file").hidden) {
    if (!upload) throw new Error("Choose a file first.");
    fields.upload = upload.text;
  }
  if (editing) {
    fields.redraw = files.base64(mask.values);
    if (editing.base) Object.assign(fields, { base: editing.base, number: editing.number, top: editing.top, left: editing.left });
    else fields.picture = editing.text;
  }
  return fields;
}

// --- drawing, watching

async function draw() {
  busy(true);
  try {
    await Promise.resolve(opening).catch(() => {});
    say("");
    const { name } = await (await ask("draw", {}, JSON.stringify(wanted()))).json();
    keep(name);
    leaveEditing();
    by("result").scrollIntoView({ block: "nearest", behavior: "smooth" });
    await watch(name);
  } finally { busy(false); }
}
function busy(is) {
  by("draw").disabled = is; by("cancel").hidden = by("progress").hidden = !is;
  if (!is) { drawing = null; document.title = "Draw with a trained model"; }
}
async function watch(name) {
  drawing = name;
  busy(true);
  by("progress").value = 0;
  for (let seen = 0; ;) {
    const told = await (await ask("drawing", { name })).json();
    if (told.shown > seen) { seen = told.shown; await show(name, told); }
    by("progress").value = told.done / told.steps;
    if (told.state === "waiting") say(told.ahead ? `Waiting; ${told.ahead} before it` : "Waiting");
    else if (told.state === "drawing") {
      const left = told.seconds / told.done * (told.steps - told.done);
      say(told.done ? `Step ${told.done} of ${told.steps}, ${duration(left)} to go` : "Getting ready; the first picture of a size takes longer");
      document.title = `${Math.round(100 * told.done / told.steps)} % drawn`;
    } else if (told.state === "failed") { forget(name); throw new Error(told.error); }
    else if (told.state === "cancelled") { forget(name); say("Cancelled"); break; }
    else { by("progress").value = 1; say(`Drawn in ${duration(told.seconds)}`); await gallery(); break; }
    await new Promise(done => setTimeout(done, EVERY));
  }
  busy(false);
}
const duration = s => s < 9.95 ? `${s.toFixed(1)} s` : s < 100 ? `${Math.round(s)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;

// --- what came of it

async function show(name, told) {
  const over = told.state === "done", again = shown?.name === name;
  shown = { name, told, number: again ? shown.number : 0 };
  const sheet = by("sheet");
  if (!again || sheet.children.length !== told.pictures) sheet.replaceChildren(...Array.from({ length: told.pictures }, (_, i) => {
    const cell = document.createElement("button"), image = document.createElement("img");
    cell.type = "button"; cell.append(image);
    cell.onclick = () => { if (told.pictures > 1) select(i); };
    return cell;
  }));
  sheet.classList.toggle("one", told.pictures === 1);
  if (told.pictures === 1) fit(sheet, ...told.size); else sheet.style.maxWidth = "";
  sheet.classList.toggle("fine", told.size[0] > 320 || told.size[1] > 640);
  by("empty").hidden = told.pictures > 0;
  const loads = [...sheet.children].map(async (cell, i) => {
    const next = new Image(), old = cell.querySelector("img");
    next.alt = `Picture ${i + 1} of ${told.pictures}${told.labels?.[i] ? `: ${told.labels[i]}` : ""}${over ? "" : ", not finished"}`;
    next.src = url("picture", { name, number: i, shown: told.shown });
    try { await next.decode(); } catch { return; }
    old.replaceWith(next);
    if (told.labels?.[i] && cell.children.length < 2) cell.append(told.labels[i]);
  });
  await Promise.all(loads);
  by("condition").hidden = !told.condition;
  if (told.condition) by("condition").querySelector("img").src = url("file", { name, file: "condition" });
  for (const id of ["actions", "how"]) by(id).hidden = !over;
  by("command").textContent = told.command;
  by("python").textContent = told.python;
  const files = by("how-files");
  files.replaceChildren(...(told.files.length ? ["With these files beside you: ", ...told.files.flatMap((file, i) => {
    const link = document.createElement("a");
    Object.assign(link, { href: url("file", { name, file }), download: file, textContent: file });
    return i ? [", ", link] : [link];
  }), ". "] : []), told.exact ? "" : "Here the codes of what stays were kept; these read them from its pixels again. ", "Or, from a picture that you have saved: python sample.py --reproduce=PICTURE.png");
  select(shown.number);
}
function select(number) {
  shown.number = Math.min(number, shown.told.pictures - 1);
  [...by("sheet").children].forEach((cell, i) => cell.setAttribute("aria-pressed", i === shown.number));
  const { stem, seed } = shown.told;
  by("save").href = url("picture", { name: shown.name, number: shown.number });
  by("save").download = `${stem}_seed${seed}${shown.told.pictures > 1 ? `_${shown.number}` : ""}.png`;
}
const kept = () => { try { return JSON.parse(localStorage.getItem(KEPT)) || []; } catch { return []; } };
function store(names) { try { localStorage.setItem(KEPT, JSON.stringify(names.slice(0, MOST_KEPT))); } catch { /* kept while the page is open only */ } }
function keep(name) { store([name, ...kept()]); }
function forget(name) { store(kept().filter(other => other !== name)); }
// The pictures that this browser asked for and the server still has -> the one that is not over, if any.
async function gallery() {
  let unfinished = null;
  const thumbs = [];
  for (const name of kept()) {
    let told;
    try { told = await (await ask("drawing", { name })).json(); } catch { forget(name); continue; }
    if (["waiting", "drawing"].includes(told.state)) unfinished ??= name;
    if (told.state !== "done") continue;
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    image.src = url("picture", { name }); image.loading = "lazy"; image.alt = `${told.pictures > 1 ? `${told.pictures} pictures` : "A picture"} by ${told.model}, seed ${told.seed}`;
    button.append(image);
    button.setAttribute("aria-current", shown?.name === name);
    button.onclick = guarded(async () => { leaveEditing(); await show(name, told); [...by("thumbs").children].forEach(b => b.setAttribute("aria-current", b === button)); });
    thumbs.push(button);
  }
  by("thumbs").replaceChildren(...thumbs);
  by("gallery").hidden = !thumbs.length;
  return unfinished;
}

// --- drawing a part again

const HIDDEN = [[0, 0, 0, 0], [214, 40, 90, 150]];
async function mapOf(name, told) { // the labels that a picture was painted on
  const file = told.files.find(other => other.endsWith("_map.png"));
  if (!file) return null;
  const bitmap = await createImageBitmap(await (await ask("file", { name, file })).blob(), { colorSpaceConversion: "none" });
  const pen = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height }).getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  return pen.getImageData(0, 0, bitmap.width, bitmap.height).data.filter((_, i) => i % 4 === 0);
}
async function edit() {
  const { name, number, told } = shown, picture = new Image();
  picture.src = url("picture", { name, number });
  await picture.decode();
  if (told.model !== model.name) throw new Error(`This was drawn by ${told.model}; choose it above first.`);
  const labels = model.kind === "segmentation" ? await mapOf(name, told) : null;
  setSize(...told.size);
  if (labels) map.set(new Uint8Array(labels), height, width, colours());
  beginEditing({ base: name, number, top: 0, left: 0, picture }, new Uint8Array(height * width));
}
function beginEditing(what, values) {
  editing = { ...what, height, width };
  for (const [id, hidden] of [["editing", false], ["sheet", true], ["actions", true], ["how", true], ["condition", true], ["empty", true]]) by(id).hidden = hidden;
  by("draw").textContent = "Draw the erased part";
  by("n").value = 1;
  mask.set(values, height, width, HIDDEN);
  base();
  document.querySelector("[data-side]").parentElement.hidden = !(model.any_size && editing.base);
  by("mask").focus();
}
function base() {
  const canvas = by("base");
  canvas.width = width; canvas.height = height;
  canvas.getContext("2d").drawImage(editing.picture, editing.left, editing.top);
}
function leaveEditing() {
  if (!editing) return;
  editing = null;
  by("editing").hidden = true; by("sheet").hidden = false;
  by("draw").textContent = "Draw";
  by("empty").hidden = !!shown;
  for (const id of ["actions", "how"]) by(id).hidden = shown?.told.state !== "done";
  by("condition").hidden = !shown?.told.condition;
}
// More room at a side, to be drawn; a map is continued there with what stands at its edge.
function extend(side) {
  const step = s => Math.ceil(s / 2 / model.factor) * model.factor, flat = side === "left" || side === "right";
  const more = step(model.sides[flat ? 1 : 0]), old = { h: height, w: width, map: map.values, mask: mask.values };
  const h = flat ? height : height + more, w = flat ? width + more : width;
  if (h * w > about.most.pixels) throw new Error("It is as large as can be drawn.");
  const y0 = side === "up" ? more : 0, x0 = side === "left" ? more : 0;
  const moved = (values, outside) => {
    const out = new Uint8Array(h * w);
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const v = y - y0, u = x - x0, inside = v >= 0 && v < old.h && u >= 0 && u < old.w;
      const near = Math.min(old.h - 1, Math.max(0, v)) * old.w + Math.min(old.w - 1, Math.max(0, u));
      out[y * w + x] = inside || outside === undefined ? values[near] : outside;
    }
    return out;
  };
  setSize(h, w);
  Object.assign(editing, { top: editing.top + y0, left: editing.left + x0, height: h, width: w });
  if (model.kind === "segmentation") map.set(moved(old.map), h, w, colours());
  mask.set(moved(old.mask, 1), h, w, HIDDEN);
  base();
}
// A picture of the user's own, as large as fits into the size that is chosen; the rest is to be drawn.
async function completeFile(file) {
  if (!file) return;
  const { canvas, blob, left, top, w, h } = await files.fitted(file, width, height, model.code);
  const values = new Uint8Array(height * width).fill(1);
  for (let y = top; y < top + h; y++) values.fill(0, y * width + left, y * width + left + w);
  beginEditing({ base: null, text: await files.text(blob), top: 0, left: 0, picture: canvas }, values);
}

// --- wiring

by("settings").addEventListener("submit", event => { event.preventDefault(); if (!by("draw").disabled) guarded(draw)(); });
by("cancel").onclick = guarded(async () => { if (drawing) await ask("cancel", { name: drawing }, ""); });
by("model").onchange = guarded(() => { leaveEditing(); return chooseModel(+by("model").value); });
for (const id of ["size", "size-w", "size-h"]) by(id).onchange = guarded(() => {
  const old = { h: height, w: width, values: map.values };
  if (!readSize()) return;
  leaveEditing();
  if (model.kind !== "segmentation") return boxes.size(height, width);
  const painted = map.before.length;
  map.set(resized(old.values, old.h, old.w), height, width, colours());
  if (model.examples && !painted) return exampleMap(); // in place of what nobody painted
  map.remember();
});
by("fill").onchange = () => { map.filling = by("fill").checked; };
by("undo").onclick = () => map.undo();
by("example").onclick = guarded(() => { seed = Math.floor(Math.random() * 1e6); return exampleMap(); });
by("map-file").onchange = guarded(async event => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  const { blob } = await files.values(file, "A map of labels", about.most);
  const body = JSON.stringify({ model: model.number, height, width, upload: await files.text(blob) });
  const values = await mapFrom("labels", {}, body);
  if (!values) throw new Error("The size was changed while the map was opened; open it again.");
  map.set(values, height, width, colours());
  map.remember();
  say("");
});
by("add-box").onclick = () => { boxes.add(); by("box-list").querySelector("li:last-child select")?.focus(); };
by("upload").onchange = event => {
  const [file] = event.target.files;
  event.target.value = ""; // the same one may be chosen again
  choose(file);
};
by("drop").ondragover = event => { event.preventDefault(); by("drop").classList.add("over"); };
by("drop").ondragleave = () => by("drop").classList.remove("over");
by("drop").ondrop = event => { event.preventDefault(); by("drop").classList.remove("over"); choose(event.dataTransfer.files[0]); };
by("dice").onclick = () => { by("seed").value = Math.floor(Math.random() * 1e6); };
by("edit").onclick = guarded(edit);
by("edit-end").onclick = leaveEditing;
by("mask-undo").onclick = () => mask.undo();
for (const button of document.querySelectorAll("[data-side]")) button.onclick = guarded(() => extend(button.dataset.side));
by("picture-file").onchange = guarded(async event => {
  const [file] = event.target.files;
  event.target.value = "";
  await completeFile(file);
});
by("again").onclick = guarded(async () => {
  const { told, name } = shown, number = about.models.findIndex(other => other.name === told.model);
  if (number !== model.number) { by("model").value = number; chooseModel(number); }
  const labels = model.kind === "segmentation" && await mapOf(name, told);
  setSize(...told.size);
  by("seed").value = told.seed;
  const label = told.class === "any" ? "Any" : told.class; // what stands for all classes comes first
  by("class").selectedIndex = Math.max(0, [...by("class").options].findIndex(option => option.text === label));
  setFilters(told.filters);
  if (labels) { map.set(new Uint8Array(labels), height, width, colours()); map.remember(); }
});
for (const button of document.querySelectorAll("[data-copy]")) button.onclick = guarded(async () => {
  const text = by(button.dataset.copy).textContent;
  try { await navigator.clipboard.writeText(text); } catch { // without https the clipboard is closed, a selection is not
    getSelection().selectAllChildren(by(button.dataset.copy));
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

guarded(async () => {
  about = await (await ask("about", {})).json();
  by("model").replaceChildren(...about.models.map((one, i) => new Option(one.name, i)));
  by("model-of").hidden = about.models.length < 2;
  await chooseModel(0);
  const unfinished = await gallery();
  if (unfinished) await watch(unfinished).finally(() => busy(false));
  else if (by("thumbs").firstChild) await by("thumbs").firstChild.onclick(); // as before the page was loaded again
})();
