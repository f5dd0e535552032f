/** Commands that people know from gdb and that there are none of here, with what there is instead. */

const frames =
  'only the innermost frame has registers here: `backtrace` lists them, `disassemble` and `x` look';
const locals =
  'there are no variables of C here: `path` has the arguments of the path, `info registers` the rest';
const types = 'there are no types here but u8, u16, u32 and u64, as in `print *(u64 *)ADDRESS`';
const processes = 'there is no process here: the fixture is the whole machine';

const INSTEAD: Readonly<Record<string, string>> = {
  attach: processes,
  call: 'code runs where the fixture calls it: `set $pc = FUNCTION` sends it elsewhere',
  checkpoint: 'every place can be gone back to: `info program` says its tick, `goto TICK` goes there',
  clear: '`delete N` deletes a breakpoint; Ctrl-L clears the screen',
  commands: '`display` shows something at each stop, and `kfault debug -x FILE` does commands from a file',
  define: 'commands are kept in a file, for `source FILE`',
  detach: '`quit` ends it',
  down: frames,
  file: processes,
  'info args': locals,
  'info files': '`layout` has the ranges of the address space',
  'info frame': frames,
  'info line': 'code has no lines here: `info symbol ADDRESS` has its name, `list` the fixture',
  'info locals': locals,
  'info mem': '`layout` has the ranges of the address space, `vmas` the mappings of the task',
  'info proc': '`vmas` has the mappings of the task, `info program` where it is',
  'info record':
    '`info program` says how far the run has come; everything goes backwards without being recorded',
  'info sharedlibrary': processes,
  'info signals': 'a fault is an event: `catch fault` stops at it',
  'info source': '`list` has the text of the fixture',
  jump: '`set $pc = ADDRESS`, and `continue`',
  kill: '`start` goes to the start, `quit` ends it',
  load: processes,
  monitor: 'what gdb asks for with monitor are commands here: `walk`, `path`, `arena`, …',
  ptype: types,
  record: 'everything goes backwards without being recorded: `reverse-stepi`, `reverse-continue`, …',
  'reverse-search': '`list LINE` shows the fixture around a line',
  search: '`list LINE` shows the fixture around a line',
  shell: 'Ctrl-Z gives the shell back until `fg`',
  show: '`info` shows what there is: `help info`',
  signal: 'signals are up to the kernel: `console` and `fixture` say which one it sent',
  sizeof: types,
  symbol: processes,
  target: '`kfault gdbserver` is for gdb; here it runs already',
  thread: '`cpu N` chooses the CPU whose registers are shown',
  tui: '`display/i $pc` shows the next instruction at each stop',
  up: frames,
  whatis: types,
};

/** What there is instead of a command of gdb's; null for a name that gdb has not either. */
export function insteadOf(name: string): string | null {
  return Object.hasOwn(INSTEAD, name) ? (INSTEAD[name] ?? null) : null;
}
