// A card for each strategy, as the page of `vtokens compare` has them: pictures, answer, costs.

import { drawn } from "./draw.js";

const element = (tag, content = "", name = "") => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(content);
  return made;
};
const hidden = (content) => element("span", content, "skip");
const figures = (number) => Number(number.toPrecision(3)).toString();
const time = (ms) => (ms >= 9999.5 ? `${figures(ms / 1000)} s` : `${figures(ms)} ms`);

/** What became of a mark, and how sure the filter is; scores that no calibration made probabilities only rank. */
const judged = (mark, calibrated) => {
  const p = mark.probability.toFixed(2), sure = calibrated ? `wrong with probability ${p}` : `score ${p}`;
  return mark.what === "regenerated" ? `written again: ${mark.text}, ${sure}` : sure;
};

/** The answer with what the filter marked in it, and the probability that each is wrong. */
export const marked = (text, marks = [], calibrated = true) => {
  const letters = [...text], parts = []; // places count characters, of which some are two units in JavaScript
  let end = 0;
  for (const mark of [...marks].sort((a, b) => a.start - b.start)) {
    const start = Math.max(mark.start, end);
    if (mark.end <= start) continue;
    const shown = element("mark", letters.slice(start, mark.end).join("")), beside = element("small", mark.probability.toFixed(2));
    beside.setAttribute("aria-hidden", "true");
    shown.title = judged(mark, calibrated);
    shown.append(hidden(` (${shown.title})`), beside);
    parts.push(letters.slice(end, start).join(""), shown);
    end = mark.end;
  }
  return [...parts, letters.slice(end).join("")];
};

const gone = (marks, calibrated) => marks.filter((one) => one.end <= one.start).map((one) => {
  const line = element("p", "Left out: ", "note");
  line.append(element("del", one.text), ` (${judged(one, calibrated)})`);
  return line;
});

/** A card that fills up: `heard` while the answer comes, then `done` or `failed`. */
export const card = (title) => {
  const whole = element("article", "", "asked"), heading = element("h2", title), answer = element("p", "", "answer");
  whole.setAttribute("aria-busy", "true");
  whole.append(heading, answer);

  const end = () => { whole.classList.remove("asked"); whole.removeAttribute("aria-busy"); };
  const heard = (text) => { answer.textContent = text; answer.scrollTop = answer.scrollHeight; };

  /** `plain` is what the unpruned model did, null where it was not asked; the model's own row has itself. */
  const done = async (found, urls, plain) => {
    end();
    const { vtokens, usage } = found, filter = vtokens?.filter, marks = filter?.marks ?? [];
    const calibrated = filter?.calibrated !== false;
    answer.replaceChildren(...(found.text ? marked(found.text, marks, calibrated) : ["(no answer)"]));
    if (plain && plain !== found) {
      const same = plain.text === found.text;
      answer.append(" ", element("span", same ? "same" : "different", same ? "same" : "other"));
    }
    answer.scrollTop = 0;
    if (answer.scrollHeight > answer.clientHeight) answer.tabIndex = 0; // a long one scrolls, by the keyboard too
    answer.after(...gone(marks, calibrated));
    const tokens = vtokens?.image_tokens ? `${figures(vtokens.kept)} of ${vtokens.image_tokens}` : "";
    const facts = element("dl");
    const fact = (what, value) => value && facts.append(element("dt", what), element("dd", value));
    const beside = (value, other) => (plain && plain !== found && other ? ` (${(value / other).toFixed(2)} of the time)` : "");
    fact("tokens a layer", tokens);
    if (found.first !== null) fact("first token", time(found.first) + beside(found.first, plain?.first));
    fact("whole answer", time(found.whole) + beside(found.whole, plain?.whole));
    if (usage) fact("tokens written", String(usage.completion_tokens));
    if (vtokens?.flops_saved > 0) fact("prefill", `${Math.round(100 * (1 - vtokens.flops_saved))}% of FLOPs`);
    if (filter) fact(filter.action === "flag" ? "marked" : filter.action === "redact" ? "left out" : "changed", String(marks.length));
    if (found.reason === "length") fact("ended", "at its limit");
    whole.append(facts);
    for (const why of vtokens?.choices ?? []) whole.append(element("p", why, "note"));
    if (filter?.guarantee) whole.append(element("p", filter.guarantee, "note"));
    const kept = vtokens?.pictures ?? [];
    const place = (number) => (urls.length > 1 ? `picture ${number + 1} of ${urls.length}` : "the picture");
    const pictures = await Promise.all(urls.map((url, number) =>
      drawn(url, kept.length === urls.length ? kept[number] : null, `${place(number)}, ${title}: ${tokens} visual tokens a layer`)));
    heading.after(...pictures);
    if (vtokens?.untold) pictures.at(-1)?.after(element("p", `Not drawn: ${vtokens.untold}`, "note"));
  };

  /** What went wrong, in the server's words, and what else could be done about it. */
  const failed = (message, remedies = []) => {
    end();
    const [first, ...allowed] = message.split(" Allowed: ");
    answer.className = "bad";
    answer.textContent = first;
    if (allowed.length) {
      const more = element("details", element("summary", "What is allowed"));
      more.append(element("p", allowed.join(" ")));
      answer.after(more);
    }
    for (const [label, action] of remedies) {
      const button = element("button", label, "button");
      button.type = "button";
      button.addEventListener("click", action);
      whole.append(button);
    }
  };
  return { whole, heard, done, failed, time };
};
