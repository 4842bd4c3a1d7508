// Replaces the still picture of each new slider by its SVG and one range input a parameter. What differs between
// positions carries data-frames, the numbers of the positions that show it; the rest of the SVG stands still.
for (const box of document.querySelectorAll(".lesson-slider:not([data-ready])")) {
  box.dataset.ready = "";
  const { svg, frames, parameters } = JSON.parse(box.querySelector('script[type="application/json"]').textContent);
  const still = box.querySelector("img");
  still.insertAdjacentHTML("afterend", svg);
  const figure = still.nextElementSibling;
  still.remove();

  const parts = Array.from({ length: frames }, () => []);
  for (const part of figure.querySelectorAll("[data-frames]")) {
    part.setAttribute("display", "none");
    for (const k of part.dataset.frames.split(" ")) parts[k].push(part);
  }
  let shown = [];
  const inputs = [];
  const update = () => {
    const k = inputs.reduce((k, input, i) => k * parameters[i].values.length + input.valueAsNumber, 0);
    for (const part of shown) part.setAttribute("display", "none");
    shown = parts[k];
    for (const part of shown) part.removeAttribute("display");
  };
  for (const { label, values, start } of parameters) {
    const row = document.createElement("label");
    const name = document.createElement("span");
    const input = document.createElement("input");
    const value = document.createElement("span");
    const say = () => {
      value.textContent = values[input.value];
      input.setAttribute("aria-valuetext", values[input.value]);
    };
    name.textContent = label;
    Object.assign(input, { type: "range", min: 0, max: values.length - 1, step: 1, value: start });
    input.setAttribute("aria-label", label); // the row's text would name it by its value, too
    value.setAttribute("aria-hidden", "true"); // aria-valuetext says it
    input.addEventListener("input", () => (say(), update()));
    row.append(name, input, value);
    figure.before(row);
    inputs.push(input);
    say();
  }
  update();
}
