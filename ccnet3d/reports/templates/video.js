// Only some masks of a long video have a picture (a frame in the page); the timeline shows all masks. k is the index of
// a picture, data.pictures[k] the index of its mask.
const root = document.documentElement;
const element = (id) => document.getElementById(id);
const data = JSON.parse(element("data").textContent);
const last = data.pictures.length - 1;
const hidden = new Set(); // ids of the hidden classes
const canvas = element("picture");
const context = canvas.getContext("2d");
const overlay = document.createElement("canvas");
const overlayContext = overlay.getContext("2d");
const timeline = makeTimeline(data, hidden);
let opacity = 0.5;
let opacityBefore = 0.5; // restored by the key o
let requested = 0; // the picture to show
let painted = -1; // the picture on the screen
let current = null; // { image, ids } of the painted one
let following = false;
let pointer = null; // mouse position on the picture

// Decoding. Pictures are decoded ahead of time, and a few are kept.
const CACHED_PICTURES = 48;
const cache = new Map();

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function decode(k) {
  const mask = data.pictures[k];
  const image = new Image();
  image.src = `data:image/jpeg;base64,${element(`frame-${mask}`).textContent}`;
  const [ids] = await Promise.all([inflate(element(`mask-${mask}`).textContent), image.decode()]);
  return { image, ids };
}

function load(k) {
  const picture = cache.get(k) ?? decode(k);
  cache.delete(k); // insert it again as the newest
  cache.set(k, picture);
  picture.catch(() => cache.delete(k)); // reported by the caller that awaits it
  if (cache.size > CACHED_PICTURES) cache.delete(cache.keys().next().value);
  return picture;
}

// Painting.
function paint() {
  if (!current) return;
  const { image, ids } = current;
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  if (canvas.width !== width || canvas.height !== height) {
    [canvas.width, canvas.height] = [overlay.width, overlay.height] = [width, height];
    canvas.style.setProperty("--aspect", width / height);
  }
  const table = new Uint8ClampedArray(4 * 256); // RGBA of each id; hidden classes and unknown ids stay transparent
  for (const one of data.classes) if (!hidden.has(one.id)) table.set([...one.color, 255], 4 * one.id);
  const colors = new Uint32Array(table.buffer);
  const layer = overlayContext.createImageData(width, height);
  const pixels = new Uint32Array(layer.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = colors[ids[i]];
  overlayContext.putImageData(layer, 0, 0);
  context.globalAlpha = 1;
  context.drawImage(image, 0, 0);
  context.globalAlpha = opacity;
  context.drawImage(overlay, 0, 0);
  showClassUnderPointer();
}

// Show the requested picture. Pictures requested and replaced while another one is decoded are skipped.
async function follow() {
  if (following) return;
  following = true;
  while (painted !== requested) {
    const k = requested;
    let problem = "";
    try {
      current = await load(k);
    } catch (error) {
      current = null;
      problem = `The picture of frame ${data.numbers[data.pictures[k]]} cannot be shown: ${error.message}`;
    }
    painted = k;
    paint();
    element("problem").textContent = problem;
    element("problem").hidden = !problem;
    root.dataset.frame = data.numbers[data.pictures[k]];
    for (let next = k + 1; next <= Math.min(last, k + 6); next++) load(next).catch(() => {});
  }
  following = false;
}

const percent = (share) => (share > 0 && share < 0.0005 ? "<0.1%" : `${(share * 100).toFixed(1)}%`);

function go(k) {
  requested = Math.max(0, Math.min(last, k));
  const mask = data.pictures[requested];
  const seconds = data.seconds[mask];
  const text = `frame ${data.numbers[mask]}${seconds === null ? "" : `, ${seconds.toFixed(2)} s`}`;
  element("scrubber").value = requested;
  element("scrubber").setAttribute("aria-valuetext", text);
  element("position").textContent = text;
  data.classes.forEach((one, c) => { one.now.textContent = percent(data.shares[mask][c]); });
  timeline.moveCursor(mask);
  follow();
}

// Return the picture whose mask is nearest to the given mask.
function nearest(mask) {
  let low = 0;
  let high = last;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (data.pictures[middle] < mask) low = middle + 1;
    else high = middle;
  }
  return low > 0 && mask - data.pictures[low - 1] < data.pictures[low] - mask ? low - 1 : low;
}

// Playback follows the video's clock; late pictures are skipped so that it does not slow down.
let playing = false;
let seconds = 0;
let tickedAt = 0;
const time = (k) => data.clock[data.pictures[k]];

function tick(now) {
  if (!playing) return;
  seconds += Math.min(0.25, (now - tickedAt) / 1000) * Number(element("speed").value); // hidden tabs do not tick
  tickedAt = now;
  let k = requested;
  while (k < last && time(k + 1) <= seconds) k++;
  if (k !== requested) go(k);
  if (k === last) play(false);
  else requestAnimationFrame(tick);
}

function play(on) {
  if (on === playing) return;
  playing = on;
  root.dataset.playing = on;
  element("play").setAttribute("aria-label", on ? "Pause" : "Play");
  if (!on) return;
  if (requested === last) go(0);
  seconds = time(requested);
  tickedAt = performance.now();
  requestAnimationFrame(tick);
}

function jump(k) {
  go(k);
  seconds = time(requested); // playback continues from there
}

function setOpacity(value) {
  opacity = Math.max(0, Math.min(1, value));
  element("opacity").value = opacity;
  element("opacity-text").textContent = `${Math.round(opacity * 100)}%`;
  root.dataset.opacity = Number(opacity.toFixed(2));
  paint();
}

// Classes.
function setHidden(ids) {
  hidden.clear();
  for (const id of ids) hidden.add(id);
  for (const one of data.classes) one.box.checked = !hidden.has(one.id);
  root.dataset.hidden = data.classes.filter((one) => hidden.has(one.id)).map((one) => encodeURIComponent(one.name)).join();
  timeline.draw();
  paint();
}

function listClasses() {
  for (const one of data.classes) {
    const item = document.createElement("li");
    const label = document.createElement("label");
    label.className = one.mean > 0 ? "class" : "class absent";
    one.box = document.createElement("input");
    one.box.type = "checkbox";
    one.box.checked = true;
    label.append(one.box);
    cell(label, "swatch").style.background = `rgb(${one.color.join(" ")})`;
    cell(label, "name", one.name).title = one.name;
    one.now = cell(label, "now");
    cell(label, "mean", percent(one.mean));
    one.box.addEventListener("change", () => {
      setHidden(data.classes.filter((each) => !each.box.checked).map((each) => each.id));
    });
    item.append(label);
    element("classes").append(item);
  }
}

// Apply the address, such as #frame=12&opacity=0.3&hidden=Sky,Road
function readFragment() {
  for (const part of location.hash.slice(1).split("&")) {
    const [key, value = ""] = part.split("=");
    try {
      if (key === "frame" && value && !Number.isNaN(Number(value))) {
        const mask = data.numbers.findIndex((number) => number >= Number(value));
        jump(nearest(mask < 0 ? data.numbers.length - 1 : mask));
      } else if (key === "opacity" && value && !Number.isNaN(Number(value))) {
        setOpacity(Number(value));
      } else if (key === "hidden") {
        const names = value.split(",").map(decodeURIComponent);
        setHidden(data.classes.filter((one) => names.includes(one.name)).map((one) => one.id));
      }
    } catch (error) {
      if (!(error instanceof URIError)) throw error; // an invalid % escape
    }
  }
}

const keys = {
  " ": () => play(!playing),
  ArrowLeft: (event) => jump(requested - (event.shiftKey ? 10 : 1)),
  ArrowRight: (event) => jump(requested + (event.shiftKey ? 10 : 1)),
  Home: () => jump(0),
  End: () => jump(last),
  o: () => {
    if (opacity > 0) opacityBefore = opacity;
    setOpacity(opacity > 0 ? 0 : opacityBefore);
  },
  "[": () => setOpacity(opacity - 0.1),
  "]": () => setOpacity(opacity + 0.1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !Object.hasOwn(keys, event.key)) return;
  const tag = event.target.id === "scrubber" ? "" : event.target.tagName;
  // Some elements use these keys themselves.
  if (event.key === " " && ["BUTTON", "INPUT", "SELECT"].includes(tag)) return;
  if (event.key.length > 1 && (tag === "SELECT" || event.target.type === "range") && tag) return;
  event.preventDefault();
  keys[event.key](event);
});
element("play").addEventListener("click", () => play(!playing));
element("scrubber").max = last;
element("scrubber").addEventListener("input", (event) => jump(Number(event.target.value)));
element("opacity").addEventListener("input", (event) => setOpacity(Number(event.target.value)));
element("all").addEventListener("click", () => setHidden([]));
element("none").addEventListener("click", () => setHidden(data.classes.map((one) => one.id)));
canvas.addEventListener("pointermove", (event) => {
  pointer = { x: event.clientX, y: event.clientY };
  showClassUnderPointer();
});
canvas.addEventListener("pointerleave", () => {
  pointer = null;
  showClassUnderPointer();
});
addEventListener("hashchange", readFragment);
timeline.onSeek((mask) => jump(nearest(mask)));
listClasses();
setOpacity(opacity);
setHidden([]);
go(0);
readFragment();
