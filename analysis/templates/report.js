"use strict";
const strips = [...document.querySelectorAll(".strip")].map((strip) => {
  const frames = [...strip.querySelectorAll(".frames figure")];
  const now = strip.querySelector(".now"), slider = strip.querySelector(".through");
  const show = (index) => {
    const frame = frames[Math.round(index)];
    now.querySelector("img").src = frame.querySelector("img").src;
    now.querySelector("img").alt = frame.querySelector("img").alt;
    now.querySelector("figcaption").textContent = frame.querySelector("figcaption").textContent;
    slider.value = Math.round(index);
  };
  slider.hidden = false;
  slider.addEventListener("input", () => show(Number(slider.value)));
  return { show, last: frames.length - 1 };
});
const master = document.getElementById("master");
if (master && strips.length > 1) {
  master.closest(".master").hidden = false;
  master.addEventListener("input", () => strips.forEach(({ show, last }) => show((last * Number(master.value)) / 100)));
}
const axes = document.querySelector(".axes");
if (axes) {
  const show = (axis) => document.querySelectorAll(".view").forEach((view) => { view.hidden = view.dataset.axis !== axis; });
  axes.hidden = false;
  axes.addEventListener("change", (event) => show(event.target.value));
  show("hours");
}
const opened = () => { const target = document.getElementById(location.hash.slice(1)); if (target && target.tagName === "DETAILS") target.open = true; };
addEventListener("hashchange", opened);
opened();
