// Scripts for results: buttons, synchronised viewers, announcements.
"use strict";

const lamp = {
  /** Connect a component of serving/stage.py: clicks trigger events, and several motions play in sync. */
  results(element, trigger, watch, props) {
    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if ("dismiss" in button.dataset) props.value = "";
      if (button.dataset.action) trigger("select", { action: button.dataset.action, id: button.dataset.id });
    });
    const shown = () => {
      const frames = [...element.querySelectorAll("iframe")];
      const bar = element.querySelector(".together");
      if (bar) lamp.playTogether(bar, frames);
      else frames.forEach(lamp.release);
      const said = element.querySelector(".said");
      if (said && said.textContent) lamp.announce(said.textContent);
      element.querySelector(".fault")?.scrollIntoView({ block: "nearest" });
    };
    watch("value", shown);
    shown();
  },

  /** Count requests that start (1) or end (-1). Viewers pause during requests, because a progress display covers them. */
  count(change) {
    this.requests = Math.max((this.requests ?? 0) + change, 0);
    for (const frame of document.querySelectorAll(".stage iframe")) {
      const { viewer } = frame.contentWindow;
      if (viewer) {
        viewer.resting = this.requests > 0;
        viewer.run();
      }
    }
  },

  /** Announce a text to screen readers. */
  announce(text) {
    let region = document.getElementById("announcer");
    if (!region) {
      region = Object.assign(document.createElement("div"), { id: "announcer", role: "status" });
      region.setAttribute("aria-live", "polite");
      document.body.append(region);
    }
    region.textContent = text;
  },

  /** Play the viewers in several frames with one clock. */
  async playTogether(bar, frames) {
    if (bar.stop) bar.stop.abort();  // the bar may control earlier viewers
    const { signal } = bar.stop = new AbortController();
    const viewers = await Promise.all(frames.map(lamp.viewerOf));
    if (signal.aborted) return;
    const [button, range, clock] = ["button", "input", "output"].map((name) => bar.querySelector(name));
    const seconds = Math.max(...viewers.map((viewer) => viewer.end / viewer.fps));
    let now = 0, last = null, playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    const show = () => {
      viewers.forEach((viewer) => viewer.seek(Math.min(now * viewer.fps, viewer.end)));
      range.value = now / Math.max(seconds, 1e-6);
      clock.textContent = `${now.toFixed(2)} / ${seconds.toFixed(2)} s`;
      button.textContent = playing ? "❚❚" : "▶";
    };
    button.addEventListener("click", () => { playing = !playing; if (playing && now >= seconds) now = 0; show(); }, { signal });
    range.addEventListener("input", () => { playing = false; now = range.value * seconds; show(); }, { signal });
    const tick = (time) => {
      if (!bar.isConnected || signal.aborted) return;
      if (playing && last !== null) {
        now += Math.min((time - last) / 1000, 0.25);
        if (now >= seconds) now = seconds ? now % seconds : 0;
        show();
      }
      last = time;
      requestAnimationFrame(tick);
    };
    show();
    requestAnimationFrame(tick);
  },

  /** Return the viewer of a frame, and hide its controls. */
  async viewerOf(frame) {
    while (!frame.contentWindow || !frame.contentWindow.viewer) await new Promise((done) => setTimeout(done, 50));
    const { viewer, document: page } = frame.contentWindow;
    await viewer.ready;
    lamp.release(frame);
    page.head.append(Object.assign(page.createElement("style"), { id: "led",
      textContent: "footer, #head .group { display: none !important; }" }));
    page.body.classList.add("single");
    viewer.setPlaying(false);
    return viewer;
  },

  /** Show the controls of a frame again. */
  release(frame) {
    const page = frame.contentWindow, style = page && page.document.getElementById("led");
    if (!style) return;
    style.remove();
    page.document.body.classList.toggle("single", page.viewer.data.motions.length === 1);
    page.viewer.setPlaying(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  },
};

// Gradio's labels of upload areas differ from their visible text.
new MutationObserver(() => {
  for (const area of document.querySelectorAll(".upload-container[aria-label]")) area.removeAttribute("aria-label");
}).observe(document.documentElement, { childList: true, subtree: true });
