import type uPlot from "uplot";

import type { Zoom } from "./zoom";

const WHEEL_STEP = 0.0022;
const PINCH_STEP = 0.012;

/**
 * Zoom and pan with mouse and fingers. A wheel alone scrolls the page, as anywhere; with Ctrl, and by two fingers on a
 * touch pad or screen, it zooms. Dragging zooms into what was drawn over (uPlot's own), with Shift it pans.
 */
export function gesturesPlugin(zoom: () => Zoom): uPlot.Plugin {
  return {
    hooks: {
      ready: [
        (plot) => {
          onWheel(plot, zoom);
          onShiftDrag(plot, zoom);
          onPinch(plot, zoom);
          plot.over.addEventListener("dblclick", () => zoom().set(null));
        },
      ],
    },
  };
}

function onWheel(plot: uPlot, zoom: () => Zoom): void {
  plot.over.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        // A pinch on a touch pad comes as a wheel with Ctrl, in far smaller steps.
        const step = Math.abs(event.deltaY) < 20 ? PINCH_STEP : WHEEL_STEP;
        zoom().by(Math.exp(event.deltaY * step), event.offsetX / plot.over.clientWidth);
      } else if (zoom().range !== null && (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))) {
        event.preventDefault();
        zoom().pan((event.deltaX || event.deltaY) / plot.over.clientWidth);
      }
    },
    { passive: false },
  );
}

function onShiftDrag(plot: uPlot, zoom: () => Zoom): void {
  // On the way down to uPlot's own listener, which would begin to select.
  plot.root.addEventListener(
    "mousedown",
    (event) => {
      if (!event.shiftKey || event.button !== 0) return;
      event.preventDefault();
      event.stopPropagation();
      let from = event.clientX;
      const move = (moved: MouseEvent) => {
        zoom().pan((from - moved.clientX) / plot.over.clientWidth);
        from = moved.clientX;
      };
      const stop = () => {
        document.removeEventListener("mousemove", move);
        document.removeEventListener("mouseup", stop);
      };
      document.addEventListener("mousemove", move);
      document.addEventListener("mouseup", stop);
    },
    true,
  );
}

function onPinch(plot: uPlot, zoom: () => Zoom): void {
  const { over } = plot;
  let before: { apart: number; middle: number } | null = null;
  const read = ({ touches: [one, other] }: TouchEvent) => {
    if (one === undefined || other === undefined) return null;
    const middle = (one.clientX + other.clientX) / 2 - over.getBoundingClientRect().left;
    return { apart: Math.max(10, Math.abs(one.clientX - other.clientX)), middle: middle / over.clientWidth };
  };
  over.addEventListener(
    "touchmove",
    (event) => {
      const now = read(event);
      if (now === null) return;
      event.preventDefault();
      if (before !== null) {
        zoom().by(before.apart / now.apart, now.middle);
        zoom().pan(before.middle - now.middle);
      }
      before = now;
    },
    { passive: false },
  );
  over.addEventListener("touchend", () => {
    before = null;
  });
}

/** The same by keys, for who has the chart in focus; whether the key was one of these. */
export function zoomByKey(zoom: Zoom, key: string): boolean {
  switch (key) {
    case "+":
    case "=":
      zoom.by(0.5);
      return true;
    case "-":
      zoom.by(2);
      return true;
    case "0":
      zoom.set(null);
      return true;
    case "ArrowLeft":
      zoom.pan(-0.25);
      return true;
    case "ArrowRight":
      zoom.pan(0.25);
      return true;
    default:
      return false;
  }
}
