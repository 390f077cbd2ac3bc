import { Badge, Text } from "@mantine/core";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useRef, type KeyboardEvent } from "react";

import type { ModuleInfo } from "../../api/schema";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";
import styles from "./LayerTree.module.css";
import { lastPart, moved, moveOf, trainedOf, type Row } from "./tree";

interface Props {
  rows: readonly Row[];
  /** The layer that is looked at. */
  selected: string;
  onSelect: (layer: ModuleInfo) => void;
  onToggle: (layer: ModuleInfo) => void;
  /** What was measured, by the layer's name; null: nothing was. */
  norms: ReadonlyMap<string, ModuleInfo> | null;
}

const ROW_PX = 32;
const INDENT_PX = 16;
const DEEPEST = 12;

/** The model's layers as a tree that the keyboard goes through; only what is in sight is drawn. */
export function LayerTree({ rows, selected, onSelect, onToggle, norms }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const at = Math.max(rows.findIndex(({ layer }) => layer.name === selected), 0);
  // eslint-disable-next-line react-hooks/incompatible-library
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => box.current, estimateSize: () => ROW_PX, overscan: 10 });

  useEffect(() => {
    virtual.scrollToIndex(at);
    // Only when another row is chosen: scrolling by hand must not be fought.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [at]);

  const press = (event: KeyboardEvent) => {
    const row = rows[at];
    const move = moveOf(event.key);
    if (row === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (row.hasChildren) onToggle(row.layer);
    }
    if (move === null) return;
    event.preventDefault();
    const { to, toggle } = moved(rows, at, move);
    const next = rows[to];
    if (toggle) onToggle(row.layer);
    else if (next) onSelect(next.layer);
  };

  return (
    <div
      ref={box}
      className={styles.tree}
      style={{ height: `min(70vh, ${rows.length * ROW_PX + 2}px)` }}
      role="tree"
      aria-label="Layers"
      tabIndex={0}
      aria-activedescendant={rows.length > 0 ? rowId(at) : undefined}
      onKeyDown={press}
    >
      <div style={{ height: virtual.getTotalSize(), position: "relative" }} role="presentation">
        {virtual.getVirtualItems().map(({ index, start }) => {
          const row = rows[index];
          if (row === undefined) return null;
          return (
            <TreeRow
              key={row.layer.name}
              row={row}
              id={rowId(index)}
              top={start}
              isSelected={index === at}
              norms={norms && (norms.get(row.layer.name) ?? row.layer)}
              onPick={(toggles) => {
                onSelect(row.layer);
                if (toggles) onToggle(row.layer);
              }}
            />
          );
        })}
      </div>
    </div>
  );
}

function rowId(index: number): string {
  return `layer-${index}`;
}

interface RowProps {
  row: Row;
  id: string;
  top: number;
  isSelected: boolean;
  norms: ModuleInfo | null;
  onPick: (toggles: boolean) => void;
}

function TreeRow({ row, id, top, isSelected, norms, onPick }: RowProps) {
  const { layer, depth, isOpen, hasChildren, place, among } = row;
  const trained = trainedOf(layer);
  return (
    // The tree itself takes the keys.
    <div
      id={id}
      className={styles.row}
      role="treeitem"
      aria-level={depth + 1}
      aria-setsize={among}
      aria-posinset={place}
      aria-expanded={hasChildren ? isOpen : undefined}
      aria-selected={isSelected}
      style={{ top, height: ROW_PX, paddingLeft: 4 + Math.min(depth, DEEPEST) * INDENT_PX }}
      onClick={() => onPick(false)}
      onDoubleClick={() => hasChildren && onPick(true)}
    >
      <span
        className={styles.toggle}
        aria-hidden
        onClick={(event) => {
          event.stopPropagation();
          onPick(hasChildren);
        }}
      >
        {hasChildren ? (isOpen ? "▾" : "▸") : ""}
      </span>
      <span className={styles.name}>
        <Name text={lastPart(layer)} mono />
        {layer.name !== "" && (
          <Text span size="xs" c="dimmed" ml={6}>
            <Name text={layer.type} />
          </Text>
        )}
      </span>
      {norms && (
        <span className={styles.norms}>
          <span className={styles.number}>{told(norms.weight_norm)}</span>
          <span className={styles.number}>{told(norms.grad_norm)}</span>
        </span>
      )}
      {trained !== "trained" && trained !== "" && (
        <Badge size="xs" variant="light" color={trained === "frozen" ? "blue" : "grape"}>
          {trained}
        </Badge>
      )}
      <span className={styles.number}>{told(layer.parameters)}</span>
    </div>
  );
}
