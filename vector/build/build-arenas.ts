/** Arenas that are there before the first step, and what the kernel says to those it refuses. */
import { drain, type Path } from '../../emu/path.js';
import { errnoName } from '../../kernel/errno.js';
import { VmallocError } from '../../mm/vmalloc.js';
import { errnoOf, errnoText } from '../format/errno-text.js';
import type { Fixture } from '../format/load.js';
import type { ArenaData } from '../format/schema-arena.js';
import type { SystemMachine } from '../machine/system-machine.js';

/** Creates the arenas of a fixture in the order in which they stand there. Throws a FixtureError. */
export function buildArenas(fixture: Fixture, machine: SystemMachine): void {
  for (const [name, data] of Object.entries(fixture.data.arenas ?? {})) {
    machine.arenas.declared.set(name, data);
    if (data.when !== 'step') buildArena(fixture, machine, name, data);
  }
}

function buildArena({ source }: Fixture, machine: SystemMachine, name: string, arena: ArenaData): void {
  const { scope, arenas } = machine;
  const path = ['arenas', name];
  const expected = arena.expect === undefined ? null : errnoOf(arena.expect, scope);
  const create = function* (): Path<number> {
    try {
      return Number(BigInt.asIntN(64, yield* arenas.create(0, name)));
    } catch (error) {
      if (!(error instanceof VmallocError)) throw error;
      throw source.at(
        [...path, 'at'],
        error.message,
        'An arena takes 4 GiB and 68 KiB of addresses of the vmalloc area, from a page boundary on.',
      );
    }
  };
  const building = arenas.failing(arena.inject ?? null, create, (what) => {
    throw source.error(
      source.keyPlace([...path, 'inject', what]),
      `\`${what}\` was to fail while the arena is created, but it was not tried (often enough)`,
    );
  });
  const result = drain(building);
  if (result !== 0 && expected === null) {
    const pages = arena.max_entries.value(scope);
    throw source.error(
      source.keyPlace(path),
      `the kernel refuses arena \`${name}\` of ${pages} pages: ${errnoText(result)}`,
      arenaHint(result),
    );
  }
  if (expected !== null && expected !== result) {
    throw source.at(
      [...path, 'expect'],
      `${errnoText(expected)} is expected, but the kernel ${result === 0 ? 'creates the arena' : `says ${errnoText(result)}`}`,
    );
  }
}

/** What the kernel's errno usually means for someone who writes a fixture. */
function arenaHint(errno: number): string {
  const expect = `Write \`expect: ${errnoText(errno)}\` into the arena if that is what the fixture is about.`;
  switch (errnoName(errno)) {
    case 'EINVAL':
      return `An arena has at least one page, a page-aligned map_extra, and BPF_F_MMAPABLE among its flags. ${expect}`;
    case 'E2BIG':
      return `An arena has at most 0x100000 pages (4 GiB). ${expect}`;
    case 'ERANGE':
      return `From map_extra to its end an arena must not cross a 4 GiB boundary. ${expect}`;
    case 'ENOMEM':
      return `Ram or addresses ran out: an arena needs about 9 MiB of ram for its tables. ${expect}`;
    default:
      return expect;
  }
}
