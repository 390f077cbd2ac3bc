import { Badge, Text } from "@mantine/core";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useLayoutEffect, useRef, type KeyboardEvent } from "react";

import type { Event } from "../../api/schema";
import { told } from "../../components/numbers";
import styles from "./EntryList.module.css";
import { movedRows, type LogWindow } from "./logWindow";
import { entryInWords, kindInWords } from "./words";

interface Props {
  window: LogWindow;
  /** The entry that is looked at; 0: none. */
  selected: number;
  onSelect: (seq: number) => void;
  onEarlier: () => void;
  onLater: () => void;
}

const ROW_PX = 32;
const NEAR_PX = 12 * ROW_PX;
const AT_TAIL_PX = 2 * ROW_PX;

/** Entries of the log, of which only those in sight are drawn. At its end it stays at its end. */
export function EntryList({ window: shown, selected, onSelect, onEarlier, onLater }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const before = useRef<readonly Event[]>([]);
  const isAtTail = useRef(selected === 0);
  const { events } = shown;
  const at = events.findIndex(({ seq }) => seq === selected);
  // eslint-disable-next-line react-hooks/incompatible-library
  const virtual = useVirtualizer({ count: events.length, getScrollElement: () => box.current, estimateSize: () => ROW_PX, overscan: 12 });

  useLayoutEffect(() => {
    const element = box.current;
    if (element === null) return;
    const isFirst = before.current.length === 0;
    const moved = movedRows(before.current, events);
    before.current = events;
    if (isAtTail.current) element.scrollTop = element.scrollHeight;
    else if (isFirst && at >= 0) element.scrollTop = at * ROW_PX - element.clientHeight / 2;
    else if (moved !== 0) element.scrollTop += moved * ROW_PX;
    // Only entries that come or go move what is seen, not another selection.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [events]);

  useEffect(() => {
    if (at >= 0 && !isAtTail.current) virtual.scrollToIndex(at);
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [selected]);

  const scrolled = () => {
    const element = box.current;
    if (element === null) return;
    const below = element.scrollHeight - element.scrollTop - element.clientHeight;
    isAtTail.current = shown.hasTail && below < AT_TAIL_PX;
    if (element.scrollTop < NEAR_PX && shown.previous > 0) onEarlier();
    if (below < NEAR_PX && !shown.hasTail) onLater();
  };

  const press = (event: KeyboardEvent) => {
    const to = { ArrowUp: at < 0 ? events.length - 1 : at - 1, ArrowDown: at + 1, Home: 0, End: events.length - 1, PageUp: at - 10, PageDown: at + 10 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const next = events[Math.min(Math.max(to, 0), events.length - 1)];
    if (event.key !== "End") isAtTail.current = false;
    if (next) onSelect(next.seq);
  };

  return (
    <div ref={box} className={styles.list} role="listbox" aria-label="Entries of the log" tabIndex={0} aria-activedescendant={at >= 0 ? `entry-${selected}` : undefined} onScroll={scrolled} onKeyDown={press}>
      <div style={{ height: virtual.getTotalSize(), position: "relative" }} role="presentation">
        {virtual.getVirtualItems().map(({ index, start }) => {
          const event = events[index];
          return event && <EntryRow key={event.seq} event={event} top={start} isSelected={event.seq === selected} onPick={() => onSelect(event.seq)} />;
        })}
      </div>
    </div>
  );
}

function EntryRow({ event, top, isSelected, onPick }: { event: Event; top: number; isSelected: boolean; onPick: () => void }) {
  const { seq, at_s: atS, step, branch, body } = event;
  const words = entryInWords(body);
  return (
    // The list itself takes the keys.
    <div id={`entry-${seq}`} role="option" aria-selected={isSelected} className={styles.row} style={{ top, height: ROW_PX }} onClick={onPick}>
      <Text span size="xs" c="dimmed" className={styles.time}>
        {new Date(atS * 1000).toLocaleTimeString("en-GB")}
      </Text>
      <Text span size="xs" className={styles.step}>
        {step == null ? "" : told(step)}
      </Text>
      <Badge size="sm" variant="light" color={colorOf(event)} tt="none" className={styles.kind}>
        {kindInWords(body.kind)}
      </Badge>
      <bdi className={styles.words} title={words.slice(0, 1000)}>
        {words.slice(0, 400)}
      </bdi>
      {branch !== "main" && (
        <Text span size="xs" c="dimmed" className={styles.branch}>
          <bdi>{branch.slice(0, 40)}</bdi>
        </Text>
      )}
    </div>
  );
}

function colorOf({ body }: Event): string {
  switch (body.kind) {
    case "found":
      return { info: "gray", warning: "yellow", critical: "red" }[body.finding.severity];
    case "acked":
      return body.ack.outcome === "applied" ? "teal" : "red";
    case "judged":
      return body.verdict.decision === "rejected" ? "red" : "teal";
    case "settled":
      return body.outcome === "kept" ? "teal" : "orange";
    case "log_gap":
      return "red";
    case "proposed":
    case "approval_requested":
    case "escalated":
      return "blue";
    default:
      return "gray";
  }
}
