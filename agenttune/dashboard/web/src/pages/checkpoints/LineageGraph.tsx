import "@xyflow/react/dist/style.css";

import { Button, Group, useComputedColorScheme } from "@mantine/core";
import { Controls, Handle, Position, ReactFlow, type Edge, type Node, type NodeProps, type ReactFlowInstance } from "@xyflow/react";
import { useEffect, useMemo, useRef, useState } from "react";

import type { BranchStarted, Checkpoint } from "../../api/schema";
import { Name } from "../../components/Name";
import { told } from "../../components/numbers";
import { lineageOf, newestOf, type Place } from "./lineage";
import styles from "./LineageGraph.module.css";

interface Props {
  branches: readonly BranchStarted[];
  checkpoints: readonly Checkpoint[];
  now: { branch: string; step: number };
  isLive: boolean;
  selected: string;
  onSelect: (checkpointId: string) => void;
}

type PlaceNode = Node<{ place: Place; isLive: boolean; isChosen: boolean }, "place">;

const COLUMN_PX = 150;
const LANE_PX = 76;
const PLACE_PX = 118;
const PLACE_HEIGHT_PX = 44;
const HANDLE_PX = 6;
const MARGIN_PX = 24;
const LOWEST_PX = 180;
const HIGHEST_PX = 420;
const NODE_TYPES = { place: PlaceBox };
/**
 * Size and handles of every place, told instead of measured: React Flow hides a node until its observer has seen it, forgets
 * that with each new list of nodes, and one that it has asked about already may then stay hidden.
 */
const SHAPE = {
  width: PLACE_PX,
  height: PLACE_HEIGHT_PX,
  measured: { width: PLACE_PX, height: PLACE_HEIGHT_PX },
  handles: [handleAt("target", Position.Left, 0), handleAt("source", Position.Right, PLACE_PX)],
} satisfies Partial<PlaceNode>;

/**
 * Branches and checkpoints, from left to right in order of steps. It begins at a readable size with the newest, and goes
 * along with the run until somebody looks elsewhere. A checkpoint that is chosen is marked in the table.
 */
export default function LineageGraph({ branches, checkpoints, now, isLive, selected, onSelect }: Props) {
  const colorMode = useComputedColorScheme("light");
  const { branch, step } = now;
  const [opened, setOpened] = useState<ReadonlySet<string>>(new Set());
  const lineage = useMemo(() => lineageOf(branches, checkpoints, { branch, step }, opened), [branches, checkpoints, branch, step, opened]);
  const { box, setFlow, toNewest, toAll, look } = useView(lineage.places);
  const nodes = lineage.places.map(
    (place): PlaceNode => ({
      id: place.id,
      type: "place",
      ...SHAPE,
      position: { x: place.column * COLUMN_PX, y: place.lane * LANE_PX },
      data: { place, isLive, isChosen: place.checkpoint !== null && place.checkpoint.checkpoint_id === selected },
      selectable: isPressed(place),
      focusable: isPressed(place),
      draggable: false,
      connectable: false,
      ariaLabel: inWords(place, isLive),
    }),
  );
  const edges = lineage.ways.map(
    ({ id, from, to, isReturn }): Edge => ({ id, source: from, target: to, type: isReturn ? "smoothstep" : "straight", focusable: false, selectable: false, ...(isReturn ? { style: { strokeDasharray: "5 4" } } : {}) }),
  );
  const press = ({ id, kind, checkpoint }: Place) => {
    if (kind === "fold") {
      look();
      setOpened(new Set([...opened, id]));
    } else if (checkpoint !== null && checkpoint.checkpoint_id !== selected) onSelect(checkpoint.checkpoint_id);
  };
  return (
    <div>
      <Group gap="xs" mb={6}>
        <Button size="compact-xs" variant="default" onClick={toNewest}>
          The newest
        </Button>
        <Button size="compact-xs" variant="default" onClick={toAll}>
          All of it
        </Button>
        {opened.size > 0 && (
          <Button size="compact-xs" variant="default" onClick={() => setOpened(new Set())}>
            Fold again
          </Button>
        )}
      </Group>
      <div className={styles.graph} ref={box} style={{ height: heightOf(lineage.lanes) }}>
        <ReactFlow
          nodes={nodes}
          edges={edges}
          nodeTypes={NODE_TYPES}
          colorMode={colorMode}
          onInit={setFlow}
          onMoveStart={(event) => event !== null && look()}
          minZoom={0.1}
          maxZoom={1.5}
          nodesConnectable={false}
          preventScrolling={false}
          proOptions={{ hideAttribution: true }}
          aria-label={`Lineage of ${lineage.branches.length} branches and ${checkpoints.length} checkpoints`}
          onNodeClick={(_, { data }) => press(data.place)}
          onSelectionChange={({ nodes: [chosen] }) => {
            if (chosen) press(chosen.data.place);
          }}
        >
          <Controls showInteractive={false} showFitView={false} />
        </ReactFlow>
      </div>
    </div>
  );
}

function handleAt(type: "source" | "target", position: Position, x: number) {
  return { type, position, x: x - HANDLE_PX / 2, y: (PLACE_HEIGHT_PX - HANDLE_PX) / 2, width: HANDLE_PX, height: HANDLE_PX };
}

function isPressed({ kind }: Place): boolean {
  return kind === "checkpoint" || kind === "fold";
}

function heightOf(lanes: number): number {
  return Math.min(HIGHEST_PX, Math.max(LOWEST_PX, lanes * LANE_PX + 2 * MARGIN_PX));
}

/** What of the graph is seen: it goes along with the newest place until somebody looks elsewhere. */
function useView(places: readonly Place[]) {
  const box = useRef<HTMLDivElement>(null);
  const [flow, setFlow] = useState<ReactFlowInstance<PlaceNode> | null>(null);
  const isFollowing = useRef(true);
  const newest = newestOf(places);
  const [column, lane] = [newest?.column ?? 0, newest?.lane ?? 0];
  useEffect(() => {
    if (flow && box.current && isFollowing.current) void flow.setViewport(viewOf(column, lane, box.current));
  }, [flow, column, lane]);
  const look = () => (isFollowing.current = false);
  const toNewest = () => {
    isFollowing.current = true;
    if (flow && box.current) void flow.setViewport(viewOf(column, lane, box.current));
  };
  const toAll = () => {
    look();
    void flow?.fitView({ maxZoom: 1, padding: 0.05 });
  };
  return { box, setFlow, toNewest, toAll, look };
}

/** At full size, with a place at the right edge; a graph that fits begins at the left. */
function viewOf(column: number, lane: number, { clientWidth, clientHeight }: HTMLElement) {
  const right = column * COLUMN_PX + PLACE_PX + MARGIN_PX;
  const below = lane * LANE_PX + LANE_PX + MARGIN_PX;
  return { x: Math.min(MARGIN_PX, clientWidth - right), y: Math.min(MARGIN_PX, clientHeight - below), zoom: 1 };
}

function PlaceBox({ data: { place, isLive, isChosen } }: NodeProps<PlaceNode>) {
  const { kind, branch, step, checkpoint, count, firstStep } = place;
  if (kind === "fold") {
    return (
      <div className={styles.place} data-kind={kind}>
        <Handle type="target" position={Position.Left} className={styles.handle} />
        <div className={styles.title}>{told(count)} checkpoints</div>
        <div className={styles.step}>
          {told(firstStep)} to {told(step)}
        </div>
        <Handle type="source" position={Position.Right} className={styles.handle} />
      </div>
    );
  }
  const title = kind === "start" ? branch : kind === "now" ? (isLive ? "now" : "end") : (checkpoint?.tag ?? checkpoint?.kept_as) || "checkpoint";
  return (
    <div className={styles.place} data-kind={kind} data-chosen={isChosen || undefined}>
      <Handle type="target" position={Position.Left} className={styles.handle} />
      <div className={styles.title}>
        {checkpoint?.pinned && <span title="pinned">📌 </span>}
        <Name text={title} />
      </div>
      <div className={styles.step}>
        {kind === "start" ? "from " : ""}step {told(step)}
      </div>
      <Handle type="source" position={Position.Right} className={styles.handle} />
    </div>
  );
}

function inWords({ kind, branch, step, checkpoint, count, firstStep }: Place, isLive: boolean): string {
  const name = branch.slice(0, 80);
  if (kind === "start") return `Branch ${name} begins at step ${step}`;
  if (kind === "now") return `Training ${isLive ? "stands" : "ended"} at step ${step} of branch ${name}`;
  if (kind === "fold") return `${count} checkpoints from step ${firstStep} to ${step} of branch ${name}: show them`;
  return `Checkpoint ${checkpoint?.tag?.slice(0, 80) ?? ""} at step ${step} of branch ${name}`;
}
