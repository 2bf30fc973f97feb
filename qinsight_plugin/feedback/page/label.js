// Asks, waits for an answer, and keeps it in the browser until the server says that it has it.

import { Viewer } from "/page/viewer.js";

const token = location.pathname.split("/").pop();
const outbox = `qinsight-${token}`;
const windowName = crypto.randomUUID ? crypto.randomUUID() : String(Math.random());
const byId = (id) => document.getElementById(id);
const [ask, where, stage, answers, note, card, undo, zoom] =
  ["ask", "where", "stage", "answers", "note", "card", "undo", "zoom"].map(byId);
const ACR = ["Bad", "Poor", "Fair", "Good", "Excellent"];
const SEVERITIES = ["none", "slight", "moderate", "obvious", "serious", "catastrophic"];
const capital = (word) => word[0].toUpperCase() + word.slice(1);

const KINDS = {
  rating: {
    ask: () => "How good does this picture look?",
    how: "Judge how it looks, not what it shows. Take <kbd>1</kbd> bad to <kbd>5</kbd> excellent; your first impression is the best.",
    choices: () => ACR.map((text, k) => ({ text, value: k + 1, keys: [String(k + 1)] })),
    names: () => [],
    layout: "one",
  },
  pair: {
    ask: () => "Which one looks better?",
    how: "<kbd>←</kbd> the left one, <kbd>→</kbd> the right one, <kbd>↓</kbd> if you see no difference in quality.",
    choices: () => [
      { text: "A is better", value: "left", keys: ["ArrowLeft", "a"], sign: "←" },
      { text: "The same", value: "same", keys: ["ArrowDown", "s"], sign: "↓" },
      { text: "B is better", value: "right", keys: ["ArrowRight", "b"], sign: "→" },
    ],
    names: () => ["A", "B"],
    layout: "two",
  },
  best: {
    ask: () => "Which one looks best?",
    how: "Press its number.",
    choices: (q) => q.pictures.map((_, k) => ({ text: `Number ${k + 1}`, value: k, keys: [String(k + 1)] })),
    names: (q) => q.pictures.map((_, k) => String(k + 1)),
    layout: "set",
  },
  severity: {
    ask: (q) => `How much ${q.about.distortion} do you see?`,
    how: "<kbd>0</kbd> none to <kbd>5</kbd> catastrophic.",
    choices: () => SEVERITIES.map((value, k) => ({ text: capital(value), value, keys: [String(k)] })),
    names: () => [],
    layout: "one",
  },
  adjust: {
    ask: (q) => `Set the ${q.about.label} until it looks right`,
    how: "<kbd>←</kbd> and <kbd>→</kbd> change the right side; <kbd>Enter</kbd> when it looks right.",
    choices: () => [{ text: "Looks right", value: () => Number(slider().value), keys: ["Enter"] }],
    names: () => ["As it is", "Adjusted"],
    layout: "two",
  },
};

let state = null;
let shownAt = 0; // when the question came on the screen; 0: not yet
let onScreen = null;
let block = "";
let rested = 0;

const viewer = new Viewer(stage, (actual) => zoom.setAttribute("aria-pressed", String(actual)));
const slider = () => answers.querySelector("input");

// The server, and answers that it does not have yet

async function post(what, body) {
  const reply = await fetch(`/api/${token}/${what}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ window: windowName, ...body }),
  });
  if (reply.ok) return reply.json();
  const { detail } = await reply.json().catch(() => ({}));
  throw Object.assign(new Error(String(detail || reply.statusText)), { status: reply.status });
}

// An answer is sent until it is kept. One that is not an answer, or is to a question that is gone,
// would never be: it is let go.
async function send() {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    const kept = localStorage.getItem(outbox);
    if (!kept) return post("open", {});
    try {
      const next = await post("answer", JSON.parse(kept));
      localStorage.removeItem(outbox);
      say("");
      return next;
    } catch (error) {
      if (error.status === 409) throw error;
      if (error.status === 404 || error.status === 422) localStorage.removeItem(outbox);
      else say(error.status ? `Not saved: ${error.message}. Trying again.` : "No connection. Your answer is kept here; trying again.");
      await new Promise((done) => setTimeout(done, wait));
    }
  }
}

async function open() {
  shownAt = 0;
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      state = await post("open", {});
      if (localStorage.getItem(outbox)) state = await send();
      say("");
      return next();
    } catch (error) {
      if (error.status === 404) return tell("Not your link", `<p>${escaped(error.message)}</p>`);
      say(error.status ? error.message : "No connection; trying again.");
      await new Promise((done) => setTimeout(done, wait));
    }
  }
}

async function give(choice) {
  if (!shownAt || card.open) return;
  const seconds = (performance.now() - shownAt) / 1000;
  shownAt = 0;
  const value = typeof choice.value === "function" ? choice.value() : choice.value;
  choice.button.classList.add("chosen");
  for (const button of answers.querySelectorAll("button")) button.disabled = true;
  const { truth } = onScreen;
  localStorage.setItem(outbox, JSON.stringify({ question: onScreen.number, value, seconds }));
  try {
    state = await send();
  } catch (error) {
    return elsewhere();
  }
  if (truth !== null) say(`Others said ${KINDS[onScreen.kind].choices(onScreen).find((c) => c.value === truth)?.text || truth}.`, 2500);
  next();
}

// Questions on the screen

async function next() {
  const question = state.questions[0];
  const { done, total, rest } = state;
  byId("bar").firstElementChild.style.width = `${(100 * done) / Math.max(1, total)}%`;
  byId("bar").setAttribute("aria-valuemax", total);
  byId("bar").setAttribute("aria-valuenow", done);
  where.textContent = question ? `${done + 1} of ${total}` : "";
  undo.disabled = done === 0;
  if (!question) return finished();
  const kind = KINDS[question.kind];
  const stretch = `${question.kind} ${kind.ask(question)} ${question.practice}`;
  if (stretch !== block) {
    block = stretch;
    await introduce(question, kind);
  } else if (rest && done && done % rest === 0 && done !== rested) {
    rested = done;
    await tell("Time for a break", `<p>${done} done, ${total - done} to go. Look away from the screen for a while. Everything is saved.</p>`, "Go on");
  }
  ask.textContent = (question.practice ? "Practice: " : "") + kind.ask(question);
  buttons(kind.choices(question), question);
  onScreen = question;
  try {
    const urls = question.kind === "adjust" ? [question.pictures[0], adjusted(question)] : question.pictures;
    await viewer.show(urls, kind.names(question), kind.layout);
  } catch (error) {
    say("A picture does not load; asking again.");
    await new Promise((done) => setTimeout(done, 1500));
    return open();
  }
  if (onScreen !== question) return;
  shownAt = performance.now();
  for (const button of answers.querySelectorAll("button")) button.disabled = false;
  for (const url of state.questions[1]?.pictures || []) new Image().src = url;
}

function buttons(choices, question) {
  answers.replaceChildren();
  if (question.kind === "adjust") answers.append(range(question));
  for (const choice of choices) {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = choice.sign || choice.keys[0];
    button.append(key, choice.text);
    button.type = "button";
    button.disabled = true;
    button.addEventListener("click", () => give(choice));
    choice.button = button;
    answers.append(button);
  }
  answers.choices = choices;
}

function range({ about, number }) {
  const label = document.createElement("label");
  label.innerHTML = "<input type=range aria-label=Value><output></output>";
  const [input, output] = label.children;
  Object.assign(input, { min: about.low, max: about.high, step: (about.high - about.low) / 40 });
  input.value = about.start;
  const shown = () => { output.textContent = Number(input.value).toFixed(2); };
  let latest = 0;
  input.addEventListener("input", async () => {
    shown();
    const own = ++latest;
    await new Promise((done) => setTimeout(done, 60)); // a slider that moves asks once it slows
    if (own === latest && onScreen.number === number) viewer.replace(1, adjusted(onScreen)).catch(() => say("No connection."));
  });
  shown();
  return label;
}

function adjusted({ number }) {
  return `/adjusted/${token}/${number}?value=${slider().value}`;
}

// Cards and notes

function introduce(question, kind) {
  const first = question.practice
    ? "<p><b>Practice first.</b> These answers do not count; they show you what to expect.</p>"
    : "<p>From here on every answer counts.</p>";
  const keys = "<p><kbd>Z</kbd> or a tap shows actual pixels, on both sides at once; drag to move. <kbd>Backspace</kbd> takes back your last answer.</p>";
  return tell(kind.ask(question), `<p>${kind.how}</p>${first}${keys}`, "Start");
}

function tell(title, html, button = "") {
  card.children[0].textContent = title;
  card.children[1].innerHTML = html;
  const go = card.children[2];
  go.hidden = !button;
  go.textContent = button;
  if (!card.open) card.showModal();
  return new Promise((closed) => {
    go.onclick = () => { card.close(); closed(); };
    card.oncancel = (event) => event.preventDefault();
  });
}

function say(text, milliseconds = 0) {
  note.textContent = text;
  note.hidden = !text;
  if (milliseconds) setTimeout(() => { if (note.textContent === text) say(""); }, milliseconds);
}

function finished() {
  onScreen = null;
  block = "";
  stage.replaceChildren();
  answers.replaceChildren();
  ask.textContent = "All done";
  stage.innerHTML = "<div class=pane><p>That was all, thank you. Everything is saved; you may close this page.</p></div>";
}

async function elsewhere() {
  await tell("Open in another window", "<p>Your link was opened elsewhere. One window at a time: else you would be asked the same twice.</p>", "Go on here");
  open();
}

function escaped(text) {
  const span = document.createElement("span");
  span.textContent = text;
  return span.innerHTML;
}

async function takeBack() {
  if (!shownAt || undo.disabled || card.open) return;
  shownAt = 0;
  try {
    state = await post("undo", {});
    say("Taken back.", 1500);
    next();
  } catch (error) {
    if (error.status === 409) elsewhere();
    else open();
  }
}

addEventListener("keydown", (event) => {
  if (event.repeat && event.target.type !== "range") return;
  if (event.ctrlKey || event.metaKey || event.altKey || card.open) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isSlider = slider() && (key === "ArrowLeft" || key === "ArrowRight");
  if (isSlider) {
    if (event.target !== slider()) {
      slider().focus();
      if (key === "ArrowLeft") slider().stepDown();
      else slider().stepUp();
      slider().dispatchEvent(new Event("input"));
      event.preventDefault();
    }
    return;
  }
  if (key === "z" && onScreen) viewer.toggle();
  else if (key === "Backspace") takeBack();
  else {
    const choice = (answers.choices || []).find((one) => one.keys.includes(key));
    if (!choice) return;
    give(choice);
  }
  event.preventDefault();
});
undo.addEventListener("click", takeBack);
zoom.addEventListener("click", () => onScreen && viewer.toggle());
open();
