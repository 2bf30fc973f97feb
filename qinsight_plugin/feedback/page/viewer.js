// Pictures side by side, all shown at the same place and scale: whole, or one pixel to a pixel.

const TAP = 6; // CSS pixels that a finger may slip in a tap

export class Viewer {
  constructor(stage, onActual) {
    this.stage = stage;
    this.onActual = onActual;
    this.panes = [];
    this.actual = false;
    this.x = this.y = 0.5; // what is in the middle of each pane, as a share of the picture
    this.drag = null;
    new ResizeObserver(() => this.draw()).observe(stage);
    stage.addEventListener("pointerdown", (event) => this.press(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    stage.addEventListener("pointerup", (event) => this.release(event));
    stage.addEventListener("pointercancel", () => { this.drag = null; });
  }

  // Shows pictures; resolves once all are on the screen, or rejects where one does not load.
  async show(urls, names, layout) {
    this.actual = false;
    this.x = this.y = 0.5;
    this.onActual(false);
    this.stage.className = layout;
    this.panes = urls.map((url, k) => {
      const pane = document.createElement("div");
      pane.className = "pane";
      const image = new Image();
      image.alt = names[k] || "The picture to judge";
      image.draggable = false;
      image.src = url;
      pane.append(image);
      if (names[k]) {
        const name = document.createElement("b");
        name.textContent = names[k];
        pane.append(name);
      }
      return { pane, image };
    });
    this.stage.replaceChildren(...this.panes.map(({ pane }) => pane));
    const shown = this.panes;
    await Promise.all(shown.map(({ image }) => image.decode()));
    if (shown !== this.panes) return;
    this.draw();
    for (const { pane } of shown) pane.classList.add("ready");
    await new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)));
  }

  // Another version of a picture that is shown, where it is.
  async replace(index, url) {
    const { pane, image } = this.panes[index];
    const next = new Image();
    next.alt = image.alt;
    next.draggable = false;
    next.src = url;
    await next.decode();
    if (!image.isConnected || this.panes[index].image !== image) return;
    image.replaceWith(next);
    this.panes[index] = { pane, image: next };
    this.draw();
  }

  toggle(at = null) {
    this.actual = !this.actual;
    if (this.actual && at) [this.x, this.y] = at;
    this.draw();
    this.onActual(this.actual);
  }

  draw() {
    this.stage.classList.toggle("actual", this.actual);
    for (const { pane, image } of this.panes) {
      if (!image.naturalWidth || !pane.clientWidth) continue;
      const { scale, width, height } = this.size(pane, image);
      const left = place(this.x, width, pane.clientWidth);
      const top = place(this.y, height, pane.clientHeight);
      image.style.transform = `translate(${snap(left)}px, ${snap(top)}px) scale(${scale})`;
    }
  }

  // A picture is never made larger than its pixels: that would show what is not in it.
  size(pane, image) {
    const one = 1 / devicePixelRatio;
    const whole = Math.min(pane.clientWidth / image.naturalWidth, pane.clientHeight / image.naturalHeight, one);
    const scale = this.actual ? one : whole;
    return { scale, width: image.naturalWidth * scale, height: image.naturalHeight * scale };
  }

  under(event) {
    return this.panes.find(({ pane }) => pane.contains(event.target));
  }

  press(event) {
    const own = this.under(event);
    if (!own || event.button) return;
    this.stage.setPointerCapture(event.pointerId);
    this.drag = { own, x: event.clientX, y: event.clientY, fromX: this.x, fromY: this.y, moved: false };
  }

  move(event) {
    const { drag } = this;
    if (!drag) return;
    const dx = event.clientX - drag.x;
    const dy = event.clientY - drag.y;
    drag.moved ||= Math.hypot(dx, dy) > TAP;
    if (!drag.moved || !this.actual) return;
    const { width, height } = this.size(drag.own.pane, drag.own.image);
    this.x = within(drag.fromX - dx / width, width, drag.own.pane.clientWidth);
    this.y = within(drag.fromY - dy / height, height, drag.own.pane.clientHeight);
    this.draw();
  }

  release(event) {
    const { drag } = this;
    this.drag = null;
    if (!drag || drag.moved) return;
    const box = drag.own.pane.getBoundingClientRect();
    const { width, height } = this.size(drag.own.pane, drag.own.image);
    const x = (event.clientX - box.left - place(this.x, width, box.width)) / width;
    const y = (event.clientY - box.top - place(this.y, height, box.height)) / height;
    this.toggle([Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))]);
  }
}

// Where a picture starts in its pane when the share `at` of it is to be in the middle.
function place(at, size, room) {
  if (size <= room) return (room - size) / 2;
  return Math.min(0, Math.max(room - size, room / 2 - at * size));
}

// The shares that can be in the middle: beyond them the picture's edge would come in.
function within(at, size, room) {
  if (size <= room) return 0.5;
  const edge = room / 2 / size;
  return Math.min(1 - edge, Math.max(edge, at));
}

// On whole device pixels, or a picture at 1:1 would be resampled.
function snap(length) {
  return Math.round(length * devicePixelRatio) / devicePixelRatio;
}
