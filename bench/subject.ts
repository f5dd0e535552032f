/** What a process of the benchmarks measures. */
export interface Subject {
  /** What one `run` does so many times: its time is divided by them. */
  readonly rounds: number;
  run(): void | Promise<void>;
  /** Makes the next `run` possible; not timed. */
  reset(): void;
  close(): void;
}
