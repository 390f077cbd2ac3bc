/**
 * How far the server's clock is ahead of this browser's, from the times that its answers carry.
 *
 * Such a time is of whole seconds and was taken at some moment between question and answer, so that each answer tells
 * bounds; together they are within a few milliseconds after some time. While they allow that both clocks agree, they do.
 */
export class ServerClock {
  private low = -Infinity;
  private high = Infinity;

  /** Take in an answer's `Date`, with when by this browser's clock it was asked for and came. */
  note(date: string | null, askedMs: number, cameMs: number): void {
    const told = date === null ? NaN : Date.parse(date);
    if (Number.isNaN(told)) return;
    const [low, high] = [told - cameMs, told + 1000 - askedMs];
    this.low = Math.max(this.low, low);
    this.high = Math.min(this.high, high);
    // One of the clocks was set: what was known before does not count.
    if (this.low > this.high) [this.low, this.high] = [low, high];
  }

  get aheadMs(): number {
    return this.low <= 0 && this.high >= 0 ? 0 : (this.low + this.high) / 2;
  }

  /** Unix seconds by the server's clock, now or at a moment of this browser's. */
  nowS(atMs = Date.now()): number {
    return (atMs + this.aheadMs) / 1000;
  }
}

/** The clock by which all ages and countdowns of the page go. */
export const serverClock = new ServerClock();
