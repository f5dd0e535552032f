/**
 * Makes the straight build, `dist/straight/`, out of the compiled `dist/`: the same program with its paths
 * as plain functions instead of generators. Paths are written as generators so that a debugger can stop in
 * them; whoever only runs them pays for that at every call (about a third of a handled fault), because an
 * engine for JavaScript neither inlines nor allocates a generator away.
 *
 * Only three things change, found in the syntax tree: `function*` becomes `function`, a generator method a
 * method, and `yield* x` becomes `x`. That is sound because paths never yield by themselves (that happens
 * in emu/path.ts alone) and delegate to a call at the place where they make it. A plain `yield` is refused.
 * A test compares the events of all fixtures in both builds.
 */
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

/** Rooms, or folders of them, whose generators are all paths (the reader of vector/format has one that is none). */
const ROOMS = ['arch', 'boot', 'bpf', 'kernel', 'mm', 'vector/build', 'vector/machine', 'vector/run'];
/** Single files of other rooms that hold paths. */
const FILES = ['emu/run.js'];

/** A file has something that cannot be made straight. */
export class StraightenError extends Error {
  override name = 'StraightenError';
}

/**
 * The source of a compiled module with its paths made straight. `file` is for messages. The text is cut,
 * not printed anew: lines stay where they are, and source maps hold. A delegation may simply lose its
 * `yield*`, because it binds as loosely as what stands behind it.
 */
export function straighten(file: string, source: string): string {
  const root = ts.createSourceFile(file, source, ts.ScriptTarget.ES2023, true, ts.ScriptKind.JS);
  let out = '';
  let done = 0;
  const cut = (start: number, end: number): void => {
    out += source.slice(done, start);
    done = end;
  };
  const visit = (node: ts.Node): void => {
    // An iterator of a collection is no path.
    if (ts.isMethodDeclaration(node) && ts.isComputedPropertyName(node.name)) return;
    if (ts.isYieldExpression(node)) {
      if (node.asteriskToken === undefined || node.expression === undefined) {
        const { line } = root.getLineAndCharacterOfPosition(node.getStart(root));
        throw new StraightenError(`${file}:${line + 1}: a path only delegates (yield*), it never yields`);
      }
      cut(node.getStart(root), node.expression.getStart(root));
      visit(node.expression);
      return;
    }
    if (ts.isFunctionLike(node) && 'asteriskToken' in node && node.asteriskToken !== undefined) {
      cut(node.asteriskToken.getStart(root), node.asteriskToken.end);
    }
    ts.forEachChild(node, visit);
  };
  visit(root);
  return out + source.slice(done);
}

/** Makes `dist/straight/` anew. */
export function straightenBuild(dist: string): void {
  const out = join(dist, 'straight');
  rmSync(out, { recursive: true, force: true });
  for (const entry of readdirSync(dist)) cpSync(join(dist, entry), join(out, entry), { recursive: true });
  const files = ROOMS.flatMap((room) =>
    readdirSync(join(out, room), { recursive: true, encoding: 'utf8' }).map((file) => join(room, file)),
  );
  for (const file of [...files, ...FILES]) {
    if (!file.endsWith('.js')) continue;
    const path = join(out, file);
    writeFileSync(path, straighten(relative(dist, path), readFileSync(path, 'utf8')));
  }
  cpSync(join(out, 'emu', 'path-straight.js'), join(out, 'emu', 'path.js'));
}

const self = fileURLToPath(import.meta.url);
if (process.argv[1] === self) straightenBuild(join(self, '..', '..'));
