import { Menu } from "@mantine/core";
import { useElementSize } from "@mantine/hooks";
import { useEffect, useMemo, useRef, type CSSProperties, type KeyboardEvent } from "react";

import classes from "./MarkStrip.module.css";
import { PLOT_LEFT, PLOT_RIGHT } from "./Plot";
import { grouped, type PlaceMark } from "./marks";
import type { Range, Zoom } from "./zoom";

interface Props {
  /** What the marks of this row are, for who hears the page. */
  name: string;
  marks: readonly PlaceMark[];
  zoom: Zoom;
  /** What is shown, settled: marks that lie on each other there are one. */
  range: Range;
  chosen: string;
  onChoose: (key: string) => void;
}

/**
 * A row of marks above a chart, each a button. One of them is reached by Tab, the others from it by arrow keys.
 *
 * Their places are computed by the browser from two numbers, so that they keep up with a zoom.
 */
export function MarkStrip({ name, marks, zoom, range, chosen, onChoose }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [low, high] = range;
  useEffect(() => {
    const follow = () => {
      const [from, to] = zoom.shown;
      box.current?.style.setProperty("--from", String(from));
      box.current?.style.setProperty("--width", String(to - from));
    };
    follow();
    return zoom.subscribe(follow);
  }, [zoom, low, high]);
  const { ref: measured, width } = useElementSize<HTMLDivElement>();
  const groups = useMemo(() => grouped(marks, high - low, width), [marks, low, high, width]);
  const focused = Math.max(0, groups.findIndex((group) => group.some(({ key }) => key === chosen)));
  return (
    <div className={classes.row} ref={measured} style={{ paddingLeft: PLOT_LEFT, paddingRight: PLOT_RIGHT }}>
      <div className={classes.box} ref={box} role="toolbar" aria-label={name} onKeyDown={moveFocus}>
        {groups.map((group, i) => (
          <MarkButton key={group[0]?.key} group={group} chosen={chosen} onChoose={onChoose} tabIndex={i === focused ? 0 : -1} />
        ))}
      </div>
    </div>
  );
}

interface ButtonProps {
  group: readonly PlaceMark[];
  chosen: string;
  onChoose: (key: string) => void;
  tabIndex: number;
}

function MarkButton({ group, chosen, onChoose, tabIndex }: ButtonProps) {
  const [first] = group;
  if (first === undefined) return null;
  const isChosen = group.some(({ key }) => key === chosen);
  const at = (first.at + (group.at(-1)?.at ?? first.at)) / 2;
  const shared = {
    type: "button" as const,
    tabIndex,
    className: classes.mark,
    "data-chosen": isChosen || undefined,
    style: { "--at": at, "--mark-color": `var(--mantine-color-${first.color}-filled)` } as CSSProperties,
  };
  if (group.length === 1) {
    return (
      <button {...shared} aria-pressed={isChosen} aria-label={first.label} title={first.label} onClick={() => onChoose(isChosen ? "" : first.key)}>
        <span aria-hidden>{first.sign}</span>
      </button>
    );
  }
  const label = `${group.length} marks near ${first.label}`;
  return (
    <Menu position="bottom" withinPortal width={320}>
      <Menu.Target>
        <button {...shared} aria-label={label} title={label}>
          <span aria-hidden>{group.length}</span>
        </button>
      </Menu.Target>
      <Menu.Dropdown mah={320} style={{ overflow: "auto" }}>
        {group.map(({ key, label: words, sign }) => (
          <Menu.Item key={key} onClick={() => onChoose(key)} leftSection={<span aria-hidden>{sign}</span>}>
            {words}
          </Menu.Item>
        ))}
      </Menu.Dropdown>
    </Menu>
  );
}

function moveFocus(event: KeyboardEvent<HTMLDivElement>): void {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step === undefined) return;
  const buttons = [...event.currentTarget.querySelectorAll("button")];
  const next = buttons[buttons.findIndex((button) => button === document.activeElement) + step];
  if (next === undefined) return;
  event.preventDefault();
  next.focus();
}
