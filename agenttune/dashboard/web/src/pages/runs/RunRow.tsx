import { memo, type CSSProperties } from "react";
import { Link } from "wouter";

import type { RunOverview } from "../../api/schema";
import { Ago } from "../../components/Ago";
import { Name } from "../../components/Name";
import { told, toldDuration, toldUsd } from "../../components/numbers";
import { RunStatus } from "../../components/RunStatus";
import { Spark } from "../../components/Spark";
import { pathOf } from "../../routes";
import css from "./RunRow.module.css";

interface Props {
  run: RunOverview;
  /** Its place in the list, for who hears the table: from 1, after the head. */
  place: number;
  /** Pixels from the top of the list. */
  top: number;
  isChosen: boolean;
  onChoose: (runId: string, chosen: boolean) => void;
  onTag: (run: RunOverview) => void;
}

const SHOWN_TAGS = 3;

/** One run of the list; drawn again only when something of it has changed, and of plain elements, as many come at once. */
export const RunRow = memo(function RunRow({ run, place, top, isChosen, onChoose, onTag }: Props) {
  const tags = run.tags ?? [];
  return (
    <div role="row" aria-rowindex={place} className={css.row} style={{ top }}>
      <div role="cell" className={css.check}>
        <label className={css.choose}>
          <input
            type="checkbox"
            checked={isChosen}
            aria-label={`Choose ${run.run_id} to compare`}
            onChange={(event) => onChoose(run.run_id, event.currentTarget.checked)}
          />
        </label>
      </div>
      <div role="cell" className={css.run}>
        <Link href={pathOf(run.run_id)} className={css.link}>
          <Name text={run.name} />
        </Link>
        <div className={`${css.line} ${css.small}`}>
          <Name text={run.run_id} className={css.id} />
          {tags.slice(0, SHOWN_TAGS).map((tag) => (
            <Name key={tag} text={tag} className={css.tag} />
          ))}
          {tags.length > SHOWN_TAGS && <span>+{tags.length - SHOWN_TAGS}</span>}
          <button type="button" className={css.change} aria-label={`tag… ${run.run_id}`} title="Change its tags" onClick={() => onTag(run)}>
            tag…
          </button>
        </div>
      </div>
      <div role="cell" className={css.state}>
        <div className={css.line}>
          <RunStatus status={run.status} />
          {run.critical > 0 && (
            <span className={css.critical} title={`${run.critical} critical finding${run.critical === 1 ? "" : "s"}`}>
              ! {run.critical}
            </span>
          )}
        </div>
      </div>
      <div role="cell" className={css.waiting}>
        {run.waiting > 0 ? (
          <Link href={pathOf(run.run_id, "approvals")} className={css.link}>
            {run.waiting} {run.waiting === 1 ? "request" : "requests"}
          </Link>
        ) : (
          <span className={css.dim}>none</span>
        )}
      </div>
      <div role="cell" className={`${css.progress} ${css.cut}`}>
        <RunProgress run={run} />
      </div>
      <div role="cell" className={css.goalCell}>
        <Goal run={run} />
      </div>
      <div role="cell" className={css.wide}>
        <Name text={run.branch} />
      </div>
      <div role="cell" className={css.wide}>{run.policy ? <Name text={run.policy} /> : "none"}</div>
      <div role="cell" className={`${css.wide} ${css.cut} ${css.right}`} title={`${told(run.spent.calls)} model calls, ${told(run.spent.tokens)} tokens`}>
        {costOf(run)}
      </div>
      <div role="cell" className={`${css.started} ${css.dim}`}>
        <Ago at={run.started_at_s ?? run.created_at_s} />
      </div>
    </div>
  );
});

function RunProgress({ run }: { run: RunOverview }) {
  const most = run.max_steps;
  const left = run.is_live && typeof run.time_left_s === "number" ? `${toldDuration(run.time_left_s)} left` : "";
  const percent = typeof most === "number" && most > 0 ? Math.min(100, (100 * run.step) / most) : null;
  return (
    <>
      <div className={`${css.line} ${css.spread}`}>
        <span>
          {told(run.step)}
          {typeof most === "number" ? ` / ${told(most)}` : ""}
        </span>
        <span className={`${css.small} ${css.dim}`}>{left}</span>
      </div>
      {percent !== null && (
        <div className={css.bar} role="progressbar" aria-label={`Progress of ${run.run_id}`} aria-valuenow={Math.round(percent)} aria-valuemin={0} aria-valuemax={100} style={{ "--done": `${percent}%` } as CSSProperties} />
      )}
    </>
  );
}

function Goal({ run: { goal } }: { run: RunOverview }) {
  const best = goal.best === null || goal.best === undefined ? "" : `best ${told(goal.best)}`;
  return (
    <div className={css.goal}>
      <Spark steps={goal.spark_steps ?? []} values={goal.spark ?? []} />
      <div className={css.shrinks}>
        <div className={css.cut}>
          <span className={css.bold}>{told(goal.newest)}</span> <span className={`${css.small} ${css.dim}`}>{best}</span>
        </div>
        <div className={`${css.small} ${css.dim} ${css.cut}`} title={goal.is_goal ? "" : "The goal was not measured yet"}>
          <Name text={goal.metric} />
        </div>
      </div>
    </div>
  );
}

function costOf({ spent }: RunOverview): string {
  if (spent.calls === 0) return "–";
  return typeof spent.usd === "number" ? toldUsd(spent.usd) : `${told(spent.tokens)} tokens`;
}
