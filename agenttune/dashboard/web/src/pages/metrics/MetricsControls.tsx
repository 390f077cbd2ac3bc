import { Button, Group, MultiSelect, SegmentedControl, Slider, Switch, Text, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { useState } from "react";

import type { Zoom } from "../../charts/zoom";
import { AXES, type MetricsView } from "./useMetricsView";
import type { Axis } from "../../charts/useCurves";

const SETTLE_MS = 250;

interface Props {
  view: MetricsView;
  zoom: Zoom;
  isZoomed: boolean;
  branches?: readonly string[];
  axes?: { value: Axis; label: string }[];
  onAxis: (axis: Axis) => void;
}

/** What of the metrics is shown, and how. */
export function MetricsControls({ view, zoom, isZoomed, branches = [], axes = AXES, onAxis }: Props) {
  const [typed, setTyped] = useState(view.search);
  const [smoothing, setSmoothing] = useState(view.smoothing);
  const settle = useDebouncedCallback(view.setSearch, SETTLE_MS);
  return (
    <Group gap="md" align="center">
      <TextInput
        type="search"
        size="sm"
        aria-label="Search metrics"
        placeholder="Search metrics"
        w={{ base: "100%", xs: 200 }}
        value={typed}
        onChange={(event) => {
          setTyped(event.currentTarget.value);
          settle(event.currentTarget.value);
        }}
      />
      <SegmentedControl size="sm" aria-label="Axis" data={axes} value={view.axis} onChange={(value) => onAxis(value)} />
      <Group gap="xs" wrap="nowrap">
        <Text size="sm" id="smoothing">
          Smoothing
        </Text>
        <Slider
          w={110}
          size="sm"
          thumbProps={{ "aria-labelledby": "smoothing" }}
          label={(value) => `${value} %`}
          value={smoothing}
          onChange={setSmoothing}
          onChangeEnd={view.setSmoothing}
        />
      </Group>
      <Switch label="Log scale" checked={view.log} onChange={(event) => view.setLog(event.currentTarget.checked)} />
      {branches.length > 1 && (
        <MultiSelect
          size="sm"
          aria-label="Only these branches"
          placeholder={view.branches.length > 0 ? "" : "All branches"}
          data={[...branches]}
          value={view.branches}
          onChange={view.setBranches}
          clearable
          miw={180}
        />
      )}
      <Group gap={4} wrap="nowrap">
        <Button size="compact-sm" variant="default" aria-label="Zoom in" onClick={() => zoom.by(0.5)}>
          +
        </Button>
        <Button size="compact-sm" variant="default" aria-label="Zoom out" disabled={!isZoomed} onClick={() => zoom.by(2)}>
          −
        </Button>
        <Button size="compact-sm" variant="default" disabled={!isZoomed} onClick={() => zoom.set(null)}>
          All
        </Button>
      </Group>
    </Group>
  );
}
