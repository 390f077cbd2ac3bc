import { Grid, Stack } from "@mantine/core";

import { useRun, useSeries } from "../../api/queries";
import { DecisionPanel } from "../../components/decision/DecisionPanel";
import { Loaded } from "../../components/Loaded";
import { useNothing } from "../../components/nothing";
import type { RunPageProps } from "../../routes";
import { useUrlState } from "../../urlState";
import { FindingPanel } from "./FindingPanel";
import { Interventions } from "./Interventions";
import { overviewMetrics } from "./names";
import { OverviewCharts } from "./OverviewCharts";
import { useAllFindings, useInterventions } from "./reads";
import { RunStatusStrip } from "./RunStatusStrip";

/** On a narrow screen the panel stands below the charts: who taps a mark is led there. */
function showIt(column: HTMLDivElement | null) {
  if (column !== null && column.getBoundingClientRect().top > window.innerHeight) column.scrollIntoView({ block: "start" });
}

/** Is the run well, what was changed in it and did it help, does anything wait? */
export default function OverviewPage({ runId }: RunPageProps) {
  const run = useRun(runId);
  const nothing = useNothing(runId);
  const series = useSeries(runId, run.data?.branch);
  const history = useInterventions(runId);
  const findings = useAllFindings(runId);
  const [decision, setDecision] = useUrlState("decision");
  const [finding, setFinding] = useUrlState("finding");
  const interventions = history.data?.history ?? [];
  const found = findings.data?.findings.find(({ seq }) => String(seq) === finding);
  const chooseDecision = (commandId: string) => {
    setFinding("");
    setDecision(commandId);
  };
  const chooseFinding = (seq: string) => {
    setDecision("");
    setFinding(seq);
  };
  const panel = decision ? (
    <DecisionPanel key={decision} runId={runId} commandId={decision} onClose={() => setDecision("")} />
  ) : found ? (
    <FindingPanel found={found} history={interventions} onChoose={chooseDecision} onClose={() => setFinding("")} />
  ) : null;
  return (
    <Stack gap="md">
      <Loaded query={run}>
        {(info) => (
          <>
            <RunStatusStrip run={info} metrics={series.data ? overviewMetrics(series.data, info.goal_metric) : null} />
            <Grid gap="md">
              <Grid.Col span={{ base: 12, md: panel ? 7 : 12 }}>
                <Loaded query={series} height={480} empty={{ when: ({ series: all }) => all.length === 0, say: nothing("measured") }}>
                  {(known) => (
                    <OverviewCharts
                      run={info}
                      metrics={overviewMetrics(known, info.goal_metric)}
                      history={interventions}
                      findings={findings.data?.findings ?? []}
                      decision={decision}
                      onDecision={chooseDecision}
                      finding={finding}
                      onFinding={chooseFinding}
                    />
                  )}
                </Loaded>
              </Grid.Col>
              {panel && (
                <Grid.Col span={{ base: 12, md: 5 }} key={decision || finding} ref={showIt}>
                  {panel}
                </Grid.Col>
              )}
            </Grid>
          </>
        )}
      </Loaded>
      <Loaded query={history}>{({ history: all }) => <Interventions history={all} nothing={nothing("asked")} chosen={decision} onChoose={chooseDecision} />}</Loaded>
    </Stack>
  );
}
