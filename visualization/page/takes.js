// Motions side by side: which ones, their labels, and the one that is kept.
"use strict";

const MOST = 100;      // maximum number of motions at once
const LABELLED = 4;    // with more motions than this, none is labelled

class Takes {
  constructor(viewer, box) {
    Object.assign(this, { viewer, box, shown: [] });
  }

  /** Motions to show side by side: those with the same caption, or all motions. */
  group() {
    const { motions } = this.viewer.data, { caption } = this.viewer.motion, all = motions.map((_, number) => number);
    const takes = all.filter((number) => motions[number].caption === caption);
    return (takes.length > 1 ? takes : all).slice(0, MOST);
  }

  /** Label of a motion that is shown side by side with others. */
  name(number) {
    const { motions } = this.viewer.data, same = this.shown.every((other) => motions[other].caption === motions[number].caption);
    return same ? `Take ${this.shown.indexOf(number) + 1}` : this.viewer.title(motions[number]);
  }

  /** Label the figures of motions, unless there is only one motion or too many. */
  label(numbers) {
    this.shown = numbers;
    const wanted = numbers.length > 1 && numbers.length <= LABELLED ? numbers : [];
    this.box.replaceChildren(...wanted.map((number) => {
      const button = document.createElement("button"), keep = document.createElement("span");
      button.textContent = this.name(number);
      keep.textContent = "Keep this one";
      button.append(keep);
      button.addEventListener("click", () => this.keep(number));
      return button;
    }));
  }

  /** Show one motion, and notify the embedding page. */
  keep(number) {
    this.viewer.setTogether(false, number);
    window.parent?.postMessage({ type: "lamp-keep", number, name: this.viewer.motion.name }, "*");
  }

  /** Put the labels above their figures. */
  place() {
    const { stage } = this.viewer, { clientWidth: width, clientHeight: height } = stage.renderer.domElement;
    [...this.box.children].forEach((label, i) => {
      const at = stage.ground(stage.cast[i], this.viewer.moment, stage.point).setY(2.0).project(stage.camera);
      label.style.transform = `translate(${((at.x + 1) / 2) * width}px, ${((1 - at.y) / 2) * height}px) translate(-50%, -100%)`;
    });
  }
}
