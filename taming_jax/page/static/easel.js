// Canvases to paint on: a map of small numbers, each shown in its colour, and boxes.

const REMEMBERED = 20;

// Calls for the one pointer that paints: begin(event) -> whether it does; move(event, whether it paints); end(); and
// cancel(), where a second finger comes, with which the browser scrolls and zooms, or a pen after a resting hand.
function onePointer(canvas, { begin, move, end, cancel }) {
  let painting = null;
  const stop = how => { painting = null; how(); };
  const by = (how, event) => { if (painting?.pointerId === event.pointerId) stop(how); };
  canvas.addEventListener("pointerdown", event => {
    const touch = event.pointerType === "touch";
    if (event.pointerType === "mouse" && event.button !== 0) return;
    if (touch && painting && painting.pointerType !== "touch") return; // a hand beside the pen
    if (painting) stop(cancel);
    if (!event.isPrimary) return;
    canvas.setPointerCapture(event.pointerId);
    if (begin(event)) painting = event;
  });
  canvas.addEventListener("pointermove", event => {
    if (painting ? painting.pointerId === event.pointerId : event.pointerType !== "touch") move(event, !!painting);
  });
  canvas.addEventListener("pointercancel", event => by(cancel, event));
  for (const name of ["pointerup", "lostpointercapture"]) canvas.addEventListener(name, event => by(end, event));
}

export class Easel {
  // colours: [[r, g, b, a], ...], one for each value. width: the range input of the brush. told: gets what to say.
  constructor(canvas, widthOf, told) {
    Object.assign(this, { canvas, widthOf, told, values: new Uint8Array(0), height: 0, width: 0, colours: [], value: 0, filling: false, before: [], at: [0, 0], last: null });
    this.pen = canvas.getContext("2d");
    this.cursor = document.createElement("div");
    this.cursor.className = "cursor";
    this.cursor.hidden = true;
    canvas.parentElement.append(this.cursor);
    onePointer(canvas, {
      begin: event => {
        this.remember();
        this.last = this.at = this.place(event);
        if (this.filling) { this.fill(...this.at); this.last = null; } else this.dab(...this.at);
        return true;
      },
      move: (event, painting) => {
        this.at = this.place(event);
        if (painting && this.last) { this.stroke(this.last, this.at); this.last = this.at; }
        this.point(event.pointerType !== "touch");
      },
      end: () => { this.last = null; },
      cancel: () => { this.last = null; this.undo(); },
    });
    for (const name of ["pointerleave", "blur"]) canvas.addEventListener(name, () => this.point(false));
    canvas.addEventListener("focus", () => { if (canvas.matches(":focus-visible")) this.point(true); });
    canvas.addEventListener("keydown", event => this.key(event));
  }

  // A map, with what it was before forgotten. values: Uint8Array, row by row.
  set(values, height, width, colours) {
    Object.assign(this, { values, height, width, colours, before: [], at: [width >> 1, height >> 1] });
    this.canvas.width = width; this.canvas.height = height;
    this.image = this.pen.createImageData(width, height);
    this.show();
  }
  show(x0 = 0, y0 = 0, x1 = this.width, y1 = this.height) {
    const data = this.image.data;
    for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) {
      const place = y * this.width + x, colour = this.colours[this.values[place]];
      data[4 * place] = colour[0]; data[4 * place + 1] = colour[1]; data[4 * place + 2] = colour[2];
      data[4 * place + 3] = colour.length > 3 ? colour[3] : 255;
    }
    this.pen.putImageData(this.image, 0, 0, x0, y0, x1 - x0, y1 - y0);
  }
  get radius() { return Math.max(.5, this.widthOf.value / 200 * Math.min(this.height, this.width)); }
  dab(x, y) {
    const r = this.radius;
    const x0 = Math.max(0, Math.floor(x - r)), x1 = Math.min(this.width, Math.ceil(x + r) + 1);
    const y0 = Math.max(0, Math.floor(y - r)), y1 = Math.min(this.height, Math.ceil(y + r) + 1);
    for (let j = y0; j < y1; j++) for (let i = x0; i < x1; i++)
      if ((i - x) ** 2 + (j - y) ** 2 <= r * r) this.values[j * this.width + i] = this.value;
    if (x1 > x0 && y1 > y0) this.show(x0, y0, x1, y1);
  }
  stroke(from, to) {
    const n = Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / Math.max(1, this.radius / 2)) || 1;
    for (let i = 1; i <= n; i++) this.dab(from[0] + (to[0] - from[0]) * i / n, from[1] + (to[1] - from[1]) * i / n);
  }
  // All that hangs together with a place and has its value.
  fill(x, y) {
    const { width, height, values } = this, start = Math.round(y) * width + Math.round(x), old = values[start];
    if (old === undefined || old === this.value) return;
    const todo = [start];
    values[start] = this.value;
    while (todo.length) {
      const place = todo.pop(), column = place % width;
      for (const next of [place - width, place + width, column ? place - 1 : -1, column < width - 1 ? place + 1 : -1])
        if (next >= 0 && next < width * height && values[next] === old) { values[next] = this.value; todo.push(next); }
    }
    this.show();
  }
  remember() { this.before.push(this.values.slice()); this.before = this.before.slice(-REMEMBERED); }
  undo() { if (this.before.length) { this.values = this.before.pop(); this.show(); } }
  place(event) {
    const box = this.canvas.getBoundingClientRect(), inside = (x, most) => Math.min(most - 1, Math.max(0, x));
    return [inside((event.clientX - box.left) * this.width / box.width - .5, this.width), inside((event.clientY - box.top) * this.height / box.height - .5, this.height)];
  }
  point(seen) {
    const size = 100 * 2 * this.radius / this.width;
    Object.assign(this.cursor.style, { left: `${100 * (this.at[0] + .5) / this.width}%`, top: `${100 * (this.at[1] + .5) / this.height}%`, width: `${size}%`, aspectRatio: "1" });
    this.cursor.hidden = !seen;
  }
  key(event) {
    const far = Math.max(1, Math.round(Math.min(this.height, this.width) / (event.shiftKey ? 64 : 24)));
    const step = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (step) {
      this.at = [Math.min(this.width - 1, Math.max(0, this.at[0] + step[0])), Math.min(this.height - 1, Math.max(0, this.at[1] + step[1]))];
      this.told(`Brush at ${Math.round(this.at[0])}, ${Math.round(this.at[1])} of ${this.width} × ${this.height}`);
    } else if (event.key === " ") {
      this.remember();
      if (this.filling) this.fill(...this.at); else this.dab(...this.at);
    } else if (event.key === "[" || event.key === "]") this.widthOf.value = +this.widthOf.value + (event.key === "[" ? -4 : 4);
    else if (event.key === "z" || event.key === "Z") this.undo();
    else if (/^[0-9]$/.test(event.key) && this.choose) this.choose((+event.key + 9) % 10);
    else return;
    event.preventDefault();
    this.point(true);
  }
}

export class Boxes {
  // Things in boxes, {category, box: [x, y, width, height]} in shares of the picture; changed: called after each change.
  constructor(canvas, categoryOf, changed) {
    Object.assign(this, { canvas, categoryOf, changed, things: [], most: 0, last: null });
    const share = event => {
      const box = canvas.getBoundingClientRect(), inside = x => Math.min(1, Math.max(0, x));
      return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
    };
    onePointer(canvas, {
      begin: event => {
        if (this.things.length >= this.most) return false;
        this.last = share(event);
        this.things.push({ category: this.categoryOf.value, box: [...this.last, 0, 0] });
        return true;
      },
      move: (event, painting) => {
        if (!painting) return;
        const [x, y] = share(event), [u, v] = this.last;
        this.things.at(-1).box = [Math.min(x, u), Math.min(y, v), Math.abs(x - u), Math.abs(y - v)];
        this.show();
      },
      end: () => {
        const [, , w, h] = this.things.at(-1).box;
        if (w < .01 || h < .01) this.things.pop();
        this.changed();
      },
      cancel: () => { this.things.pop(); this.changed(); },
    });
  }
  add() {
    if (this.things.length < this.most) this.things.push({ category: this.categoryOf.value, box: [.3, .3, .4, .4] });
    this.changed();
  }
  size(height, width) { this.canvas.width = 512; this.canvas.height = Math.round(512 * height / width); this.show(); }
  show() {
    const pen = this.canvas.getContext("2d"), { width, height } = this.canvas;
    pen.clearRect(0, 0, width, height);
    this.things.forEach((thing, i) => {
      const [x, y, w, h] = thing.box, hue = (i * 137) % 360;
      pen.fillStyle = `hsl(${hue} 70% 55% / .3)`; pen.strokeStyle = `hsl(${hue} 70% 50%)`; pen.lineWidth = 3;
      pen.fillRect(x * width, y * height, w * width, h * height);
      pen.strokeRect(x * width, y * height, w * width, h * height);
      pen.font = "600 16px sans-serif"; pen.lineWidth = 4; pen.strokeStyle = "#000a"; pen.fillStyle = "#fff";
      pen.strokeText(thing.category, x * width + 6, y * height + 20); pen.fillText(thing.category, x * width + 6, y * height + 20);
    });
  }
}
