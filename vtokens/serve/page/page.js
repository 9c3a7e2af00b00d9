// The page at / of the server: one question about pictures, under several strategies, one after the other.

import { Refused, ask, models } from "./api.js";
import { card } from "./card.js";
import { pictures } from "./pictures.js";

const part = (id) => document.getElementById(id);
const say = (text) => { part("said").textContent = text; };
const complain = (text, field = null) => {
  part("problem").textContent = text;
  for (const one of [part("question"), part("key")]) one.removeAttribute("aria-invalid");
  if (field) { field.setAttribute("aria-invalid", "true"); field.focus(); }
};

/** What can be asked for: `{title, model, strategy, chosen, free}`, a chip each. */
const choices = [];
let running = null; // the AbortController of the question that is being asked
const shown = pictures({
  list: part("pictures"), drop: part("drop"), inputs: [part("choose"), part("camera")], told: (text) => {
    complain(text);
    say(text ? "" : shown.held.length === 1 ? "1 picture" : `${shown.held.length} pictures`);
  },
});

/** A button with `one`'s name that says whether it is chosen, and for what somebody typed one that takes it away. */
const chip = (one) => {
  const button = document.createElement("button"), name = document.createElement("span");
  button.type = "button";
  button.className = "chip";
  one.choose = (chosen) => { one.chosen = chosen; button.setAttribute("aria-pressed", String(chosen)); };
  one.choose(one.chosen);
  name.textContent = one.title;
  button.append(name);
  button.addEventListener("click", () => one.choose(!one.chosen));
  if (!one.free) return button;
  const both = document.createElement("span"), remove = document.createElement("button");
  both.className = "free";
  remove.type = "button";
  remove.className = "button";
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Remove ${one.title}`);
  remove.addEventListener("click", () => { drop(one); part("spec").focus(); say(`${one.title} removed`); });
  both.append(button, remove);
  return both;
};
const chips = () => part("chips").replaceChildren(...choices.map(chip));
const drop = (one) => { choices.splice(choices.indexOf(one), 1); wrong(""); chips(); };

const wrong = (text) => {
  part("wrong").textContent = text;
  part("spec").toggleAttribute("aria-invalid", false);
  if (text) part("spec").setAttribute("aria-invalid", "true");
};

const add = () => {
  const spec = part("spec").value.trim(), there = choices.find((one) => one.strategy === spec);
  if (!spec) return part("spec").focus();
  wrong("");
  if (there) there.chosen = true;
  else choices.push({ title: spec, model: choices[0].model, strategy: spec, chosen: true, free: true });
  chips();
  part("spec").value = "";
  part("spec").focus();
  say(`${spec} added`);
};

/** Asks the server what there is; with a wrong key, or none where one is needed, asks for that first. */
const enter = async () => {
  let found;
  try {
    found = await models(part("key").value);
  } catch (error) {
    if (error.status === 401 || error.status === 403) {
      part("door").hidden = false;
      if (part("key").value) complain(error.message, part("key"));
    } else complain(error.message);
    return false;
  }
  complain("");
  const [base, ...presets] = found, about = base.vtokens ?? {}, plain = (about.strategy ?? "none") === "none";
  const kept = choices.filter((one) => one.free);
  choices.splice(0, choices.length, { title: plain ? "unpruned" : about.strategy, model: base.id, chosen: true, plain });
  for (const one of presets) {
    const name = one.id.startsWith(`${base.id}:`) ? one.id.slice(base.id.length + 1) : one.id;
    const spec = one.vtokens?.strategy ?? name;
    choices.push({ title: spec === name ? name : `${name}: ${spec}`, model: one.id, chosen: true });
  }
  if (about.free && !plain) choices.push({ title: "unpruned", model: base.id, strategy: "none", chosen: false, plain: true });
  choices.push(...kept);
  chips();
  part("where").textContent = `${base.id}, under strategies side by side: what each kept of the picture, what the model says then, and how long it took.`;
  document.title = `Ask ${base.id} about a picture`;
  part("free").hidden = !about.free;
  part("fixed").hidden = Boolean(about.free);
  part("names").replaceChildren(...(about.strategies ?? []).map((name) => new Option(name, name)));
  const words = { flag: "is marked", redact: "is left out", regenerate: "is written again", abstain: "leaves no answer" };
  const actions = about.filter || [], before = part("action").value;
  part("action").replaceChildren(new Option("is not checked", ""), ...actions.map((name) => new Option(words[name] ?? name, name)));
  part("action").value = before;
  document.querySelector(".settings").classList.toggle("filters", actions.length > 0);
  return true;
};

/** Where the server named the nearest right strategy: a way to take that one instead. */
const remedy = (error, one) => {
  const near = error.message.match(/Did you mean '([^']+)'/)?.[1], said = error.message.match(/'([^']+)'/)?.[1];
  if (!one.free || !near || !one.strategy.includes(said)) return [];
  const spec = one.strategy.replace(said, near);
  return [[`Take ${spec}`, () => {
    drop(one);
    part("spec").value = spec;
    add();
    start();
  }]];
};

const start = async () => {
  const question = part("question").value.trim(), key = part("key").value, action = part("action").value;
  if (part("spec").value.trim()) add();
  if (!choices.length && !(await enter())) return;
  const asked = choices.filter((one) => one.chosen);
  if (!shown.held.length) return complain("There is no picture yet: drop one, paste one or choose one.", part("choose"));
  if (!question) return complain("There is no question yet.", part("question"));
  if (!asked.length) return complain("No strategy is chosen.", part("chips").querySelector("button"));
  complain("");
  wrong("");
  running = new AbortController();
  part("go").textContent = "Stop";
  const urls = shown.held.map((one) => one.url), cards = asked.map((one) => card(one.title));
  part("cards").replaceChildren(...cards.map((one) => one.whole));
  part("lead").textContent = "Dropped patches are dark, the darker the fewer decoder layers saw them. One strategy is asked after the other, once each; times are what this page waited.";
  part("answers").scrollIntoView({ block: "nearest" });
  say(`Asking under ${asked.length === 1 ? "one strategy" : `${asked.length} strategies`}`);
  const filter = action ? { action, threshold: Number(part("threshold").value) } : null;
  const most = Number(part("most").value) || 128;
  let plain = null;
  for (const [number, one] of asked.entries()) {
    const place = cards[number];
    try {
      const found = await ask({ ...one, pictures: urls, question, most, filter }, key, place.heard, running.signal);
      if (one.plain) plain = found;
      await place.done(found, urls, plain);
      say(`${one.title}: ${found.text || "no answer"}`);
    } catch (error) {
      if (error.name === "AbortError") { cards.slice(number).forEach((left) => left.failed("Stopped.")); say("Stopped"); break; }
      const again = error.after ? ` It can be asked again in ${error.after} s.` : "";
      place.failed(error.message + again, remedy(error, one));
      const [short] = error.message.split(" Allowed: ");
      if (error.status === 400 && /strategy|keep/.test(error.param ?? "")) one.choose(false); // it would be refused again
      if (one.free && error.status === 400) wrong(short);
      say(`${one.title}: ${short}`);
      if (!(error instanceof Refused)) throw error;
      if (error.status === 401) { part("door").hidden = false; complain(error.message, part("key")); }
    }
  }
  running = null;
  part("go").textContent = "Ask";
};

part("ask").addEventListener("submit", (event) => { event.preventDefault(); running ? running.abort() : start(); });
part("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || running) return;
  event.preventDefault();
  start();
});
part("spec").addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); add(); } });
part("spec").addEventListener("input", () => wrong(""));
part("add").addEventListener("click", add);
part("key").addEventListener("change", enter);
part("example").addEventListener("click", async () => {
  const blob = await (await fetch("page/example.webp")).blob();
  shown.clear();
  await shown.add([new File([blob], "example", { type: "image/webp" })]);
  part("question").value = "Where is the purple diamond?";
});
enter();
