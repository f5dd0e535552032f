/** Requests about breakpoints. They are answered while the machine runs as well: it stands still for a moment. */
import type { DebugProtocol } from '@vscode/debugprotocol';
import type { Category, Wishes } from './breakpoint-book.js';
import {
  dataInfo,
  dataWishes,
  exceptionWishes,
  functionWishes,
  instructionWishes,
  sourceWishes,
} from './breakpoint-requests.js';
import type { Answer, Desk } from './desk.js';
import { RequestError } from './request-error.js';

export function answerBreakpointRequests(desk: Desk): void {
  const set = (category: Category, wishes: Wishes): Answer => {
    void desk.launched;
    return desk.motion.whenStill(() => ({ body: { breakpoints: desk.book.set(category, wishes) } }));
  };
  desk.handle('setBreakpoints', (args) => {
    const { client, launched } = desk;
    const { path } = args.source;
    if (path !== undefined && client.isFile(path, launched.file)) {
      return set('source', sourceWishes(args, launched.file, client));
    }
    const breakpoints = args.breakpoints.map(
      ({ line }): DebugProtocol.Breakpoint => ({
        verified: false,
        line,
        message: 'this file is not the fixture that is debugged',
      }),
    );
    return { body: { breakpoints } };
  });
  desk.handle('setFunctionBreakpoints', (args) => set('function', functionWishes(args)));
  desk.handle('setInstructionBreakpoints', (args) => set('instruction', instructionWishes(args)));
  desk.handle('setExceptionBreakpoints', (args) => set('exception', exceptionWishes(args)));
  desk.handle('setDataBreakpoints', (args) => set('data', dataWishes(args)));
  desk.handle('dataBreakpointInfo', (args) => {
    const { session, variables } = desk.still;
    const { variablesReference = 0, name } = args;
    if (variablesReference === 0) return { body: dataInfo(session, args, null) };
    const node = variables.children(variablesReference).find((each) => each.name === name);
    if (node === undefined) throw new RequestError(`there is no variable \`${name.slice(0, 60)}\` here`);
    return { body: dataInfo(session, args, node) };
  });
  desk.handle('breakpointLocations', ({ source, line, endLine }) => {
    const { client, launched } = desk;
    const { path } = source;
    const ours = path !== undefined && client.isFile(path, launched.file);
    const lines = ours ? launched.lines.places(client.fromLine(line), client.fromLine(endLine ?? line)) : [];
    return { body: { breakpoints: lines.map((each) => ({ line: client.line(each) })) } };
  });
}
