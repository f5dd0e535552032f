/** What is told the client about what kfault can do. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import type { BreakpointSpec } from '../breakpoints.js';

const EXPRESSION = 'An expression, e.g. $rdi == a.page(3): stops when it is not zero.';

export interface ExceptionFilter extends DebugProtocol.ExceptionBreakpointsFilter {
  /** What stops; null when the condition that it needs is missing. */
  spec(condition: string | undefined): BreakpointSpec | null;
  /** The condition is an expression like those of other breakpoints. */
  readonly hasExpression: boolean;
}

export const EXCEPTION_FILTERS: readonly ExceptionFilter[] = [
  {
    filter: 'fault',
    label: 'Faults',
    description: 'Stops where an exception is taken, at the beginning of the kernel’s path.',
    default: false,
    supportsCondition: true,
    conditionDescription: EXPRESSION,
    spec: () => ({ kind: 'fault', exception: null }),
    hasExpression: true,
  },
  {
    filter: 'kfence',
    label: 'KFENCE',
    description: 'Stops at faults in the KFENCE pool and at what KFENCE reports.',
    default: false,
    supportsCondition: true,
    conditionDescription: EXPRESSION,
    spec: () => ({ kind: 'kfence' }),
    hasExpression: true,
  },
  {
    filter: 'scratch',
    label: 'Scratch page',
    description: 'Stops where the scratch page of an arena is put into a table entry.',
    default: false,
    supportsCondition: true,
    conditionDescription: EXPRESSION,
    spec: () => ({ kind: 'scratch' }),
    hasExpression: true,
  },
  {
    filter: 'oops',
    label: 'Oops and panic',
    description: 'Stops where the kernel has printed an oops, or panics.',
    default: true,
    supportsCondition: true,
    conditionDescription: EXPRESSION,
    spec: () => ({ kind: 'oops' }),
    hasExpression: true,
  },
  {
    filter: 'console',
    label: 'Console line',
    description: 'Stops where a line with a text is printed to the console; the condition is the text.',
    default: false,
    supportsCondition: true,
    conditionDescription: 'The text, e.g. BUG:',
    spec: (text) => (text === undefined || text === '' ? null : { kind: 'console', text }),
    hasExpression: false,
  },
];

export function capabilities(): DebugProtocol.Capabilities {
  return {
    supportsConfigurationDoneRequest: true,
    supportsFunctionBreakpoints: true,
    supportsConditionalBreakpoints: true,
    supportsHitConditionalBreakpoints: true,
    supportsEvaluateForHovers: true,
    exceptionBreakpointFilters: EXCEPTION_FILTERS.map(
      ({ spec: _, hasExpression: _too, ...filter }) => filter,
    ),
    supportsStepBack: true,
    supportsSetVariable: true,
    supportsSetExpression: true,
    supportsCompletionsRequest: true,
    completionTriggerCharacters: ['.', '$', ' '],
    supportsRestartRequest: true,
    supportsExceptionOptions: false,
    supportsExceptionFilterOptions: true,
    supportsValueFormattingOptions: true,
    supportsExceptionInfoRequest: true,
    supportsTerminateRequest: true,
    supportsDataBreakpoints: true,
    supportsDataBreakpointBytes: true,
    supportsReadMemoryRequest: true,
    supportsWriteMemoryRequest: true,
    supportsDisassembleRequest: true,
    supportsBreakpointLocationsRequest: true,
    supportsSteppingGranularity: true,
    supportsInstructionBreakpoints: true,
    supportsLoadedSourcesRequest: true,
    supportsDelayedStackTraceLoading: true,
  };
}
