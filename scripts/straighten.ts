/**
 * Makes the straight build, `dist/straight/`, out of the compiled `dist/`: the same program with its paths
 * as plain functions instead of generators. Paths are written as generators so that a debugger can stop in
 * them; whoever only runs them pays for that at every call (about a third of a handled fault), because an
 * engine for JavaScript neither inlines nor allocates a generator away.
 *
 * Only three things change, on the syntax tree: `function*` becomes `function`, a generator method a
 * method, and `yield* x` becomes `x`. That is sound because paths never yield by themselves (that happens
 * in emu/path.ts alone) and delegate to a call at the place where they make it. A plain `yield` is refused.
 * A test compares the events of all fixtures in both builds.
 */
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

/** Rooms whose generators are all paths. */
const ROOMS = ['arch', 'boot', 'bpf', 'kernel', 'mm'];
/** Single files of other rooms that hold paths. */
const FILES = ['emu/run.js'];

/** A file has something that cannot be made straight. */
export class StraightenError extends Error {
  override name = 'StraightenError';
}

/** The source of a compiled module with its paths made straight. `file` is for messages. */
export function straighten(file: string, source: string): string {
  const tree = ts.createSourceFile(file, source, ts.ScriptTarget.ES2023, true, ts.ScriptKind.JS);
  const { transformed } = ts.transform(tree, [
    (context) => (root) => ts.visitNode(root, visitor(context, file, root)) as ts.SourceFile,
  ]);
  const [result] = transformed;
  if (result === undefined) throw new StraightenError(`${file}: nothing came out`);
  return ts.createPrinter().printFile(result);
}

function visitor(context: ts.TransformationContext, file: string, root: ts.SourceFile): ts.Visitor {
  const { factory } = context;
  const visit: ts.Visitor = (node) => {
    // An iterator of a collection is no path.
    if (ts.isMethodDeclaration(node) && ts.isComputedPropertyName(node.name)) return node;
    const inner = ts.visitEachChild(node, visit, context);
    if (ts.isYieldExpression(inner)) {
      if (inner.asteriskToken !== undefined && inner.expression !== undefined) {
        return factory.createParenthesizedExpression(inner.expression);
      }
      const { line } = root.getLineAndCharacterOfPosition(node.getStart(root));
      throw new StraightenError(`${file}:${line + 1}: a path only delegates (yield*), it never yields`);
    }
    if (ts.isFunctionDeclaration(inner) && inner.asteriskToken !== undefined) {
      const { modifiers, name, parameters, body } = inner;
      return factory.updateFunctionDeclaration(
        inner,
        modifiers,
        undefined,
        name,
        undefined,
        parameters,
        undefined,
        body,
      );
    }
    if (ts.isFunctionExpression(inner) && inner.asteriskToken !== undefined) {
      const { modifiers, name, parameters, body } = inner;
      return factory.updateFunctionExpression(
        inner,
        modifiers,
        undefined,
        name,
        undefined,
        parameters,
        undefined,
        body,
      );
    }
    if (ts.isMethodDeclaration(inner) && inner.asteriskToken !== undefined) {
      const { modifiers, name, parameters, body } = inner;
      return factory.updateMethodDeclaration(
        inner,
        modifiers,
        undefined,
        name,
        undefined,
        undefined,
        parameters,
        undefined,
        body,
      );
    }
    return inner;
  };
  return visit;
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
