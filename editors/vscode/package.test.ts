/** The package as `npm run package-extension` makes it, and the extension in it, beside a stand-in for the editor. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type * as vscode from 'vscode';
import { z } from 'zod';
import { launchArguments } from '../../debug/dap/requests.js';
import { type ArchivedFile, readArchive } from './archive-testing.js';
import { type Desk, FakeEditor } from './fake-vscode.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'kfault-package-'));
const fixture = join(root, 'fixtures', 'x86', 'oops-on-a-null-pointer.yaml');
/** A workspace with a kfault that says how it was started. */
const work = join(folder, 'work');
const kfault = join(work, 'node_modules', '.bin', 'kfault');

const repository = (name: string): string => readFileSync(join(root, name), 'utf8');

let files: readonly ArchivedFile[];
const packaged = (name: string): string => {
  const found = files.find((file) => file.name === name);
  if (found === undefined) throw new Error(`the package has no ${name}`);
  return found.text;
};
const manifest = () => JSON.parse(packaged('extension/package.json'));

beforeAll(() => {
  execFileSync(
    process.execPath,
    [join(root, 'dist', 'scripts', 'package-extension.js'), join(folder, 'out')],
    {
      // Whatever it would ask, nobody answers.
      stdio: ['ignore', 'pipe', 'inherit'],
      cwd: folder,
    },
  );
  const { version } = JSON.parse(repository('package.json'));
  files = readArchive(join(folder, 'out', `kfault-${version}.vsix`));
  mkdirSync(join(kfault, '..'), { recursive: true });
  writeFileSync(kfault, '#!/bin/sh\necho "$@"\n', { mode: 0o755 });
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

describe('the package', () => {
  test('has these files, always with the same dates, modes and order', () => {
    expect(files.map(({ name }) => name)).toEqual([
      '[Content_Types].xml',
      'extension.vsixmanifest',
      'extension/extension.cjs',
      'extension/fixture.schema.json',
      'extension/LICENSE.txt',
      'extension/package.json',
      'extension/readme.md',
      'extension/snippets.json',
    ]);
    // The first of January 1980, midnight.
    expect([...new Set(files.map(({ date, time }) => `${date.toString(16)} ${time}`))]).toEqual(['21 0']);
    // yazl gives what was never a file the mode 664.
    expect([...new Set(files.map(({ mode }) => mode.toString(8)))].sort()).toEqual(['100644', '100664']);
    expect(readdirSync(join(folder, 'out'))).toHaveLength(1);
  });

  test("has the schema and the licence of the repository, and this repository's version", () => {
    expect(packaged('extension/fixture.schema.json')).toBe(repository('docs/fixture.schema.json'));
    expect(packaged('extension/LICENSE.txt')).toBe(repository('LICENSE'));
    const { version, license, devDependencies } = JSON.parse(repository('package.json'));
    expect(manifest()).toMatchObject({ name: 'kfault', version, license });
    // Nothing may be used that the oldest supported editor has not.
    expect(manifest().engines.vscode).toBe(`^${devDependencies['@types/vscode']}`);
  });

  test('what the manifest names is there', () => {
    const { main, contributes } = manifest();
    const paths = [main, contributes.snippets[0].path, contributes.yamlValidation[0].url];
    expect(paths.map((path) => packaged(path.replace('./', 'extension/')).length > 0)).toEqual([
      true,
      true,
      true,
    ]);
  });

  test('the bundle is the extension, needs the editor and Node.js, and has nothing of kfault', () => {
    const modules = [...packaged('extension/extension.cjs').matchAll(/^\/\/ (\S+\.\w+)$/gm)].map(
      ([, name]) => name,
    );
    expect([...new Set(modules)].sort()).toEqual(
      ['configurations', 'extension', 'find-kfault'].map((name) => `editors/vscode/${name}.ts`),
    );
    const needed = [...packaged('extension/extension.cjs').matchAll(/\brequire\("([^"]+)"\)/g)].map(
      ([, name]) => name ?? '',
    );
    expect(needed).toContain('vscode');
    expect(needed.filter((name) => name !== 'vscode' && !isBuiltin(name))).toEqual([]);
  });
});

describe('the manifest', () => {
  const debuggers = () => manifest().contributes.debuggers[0];
  const launch = () => debuggers().configurationAttributes.launch;

  test('has the launch arguments of the adapter, and so have the documents', () => {
    const { properties = {}, required } = z.toJSONSchema(launchArguments, { io: 'input' });
    // That one is the protocol's: VS Code puts it there for Run Without Debugging.
    const names = Object.keys(properties).filter((name) => name !== 'noDebug');
    expect(Object.keys(launch().properties)).toEqual(names);
    expect(launch().required).toEqual(required);
    for (const name of names) {
      const { type, enum: words, default: otherwise } = properties[name] as z.core.JSONSchema.JSONSchema;
      expect(launch().properties[name]).toMatchObject({ type, ...(words && { enum: words }) });
      // What VS Code writes into a launch.json; the file in the editor is its own idea.
      const written = name === 'fixture' ? debuggers().initialConfigurations[0].fixture : otherwise;
      expect(launch().properties[name].default).toBe(written);
    }
    for (const document of ['editors/vscode/README.md', 'docs/vscode.md']) {
      expect(firstCells(repository(document), 'attribute')).toEqual(names);
    }
  });

  test('its configurations and settings are ones that there are', () => {
    const known = [...Object.keys(launch().properties), 'type', 'request', 'name'];
    const { initialConfigurations, configurationSnippets } = debuggers();
    const bodies = [
      ...initialConfigurations,
      ...configurationSnippets.map((each: { body: unknown }) => each.body),
    ];
    expect(bodies.flatMap(Object.keys).filter((key) => !known.includes(key))).toEqual([]);
    expect(bodies.every((body) => body.type === 'kfault' && body.request === 'launch' && body.fixture)).toBe(
      true,
    );
    const settings = Object.keys(manifest().contributes.configuration.properties);
    for (const document of ['editors/vscode/README.md', 'docs/vscode.md']) {
      expect(firstCells(repository(document), 'setting')).toEqual(settings);
    }
    expect(manifest().capabilities.untrustedWorkspaces.restrictedConfigurations).toEqual(settings);
  });
});

/** What the rows of the table with this heading are about. */
function firstCells(markdown: string, heading: string): string[] {
  const [, table] = markdown.split(`\n| ${heading} |`);
  const rows = (table ?? '').split('\n').slice(2);
  const end = rows.findIndex((row) => !row.startsWith('| `'));
  return rows.slice(0, end).map((row) => row.split('`')[1] ?? '');
}

describe('the extension', () => {
  const editor = (desk: Desk = {}): FakeEditor =>
    new FakeEditor(desk).activate(packaged('extension/extension.cjs'));

  /** A configuration as it comes back from both hooks, the editor's own steps between them left out. */
  function resolved(at: FakeEditor, configuration: object): unknown {
    const provider = at.providers.get('kfault');
    const [first] = at.folders;
    const token = {} as vscode.CancellationToken;
    const made = provider?.resolveDebugConfiguration?.(
      first,
      configuration as vscode.DebugConfiguration,
      token,
    );
    if (!made) return made;
    return provider?.resolveDebugConfigurationWithSubstitutedVariables?.(
      first,
      made as vscode.DebugConfiguration,
      token,
    );
  }

  function descriptor(at: FakeEditor): { command: string; args: string[] } {
    const session = { workspaceFolder: at.folders[0] } as vscode.DebugSession;
    return at.factories.get('kfault')?.createDebugAdapterDescriptor(session, undefined) as never;
  }

  const launch = { type: 'kfault', request: 'launch', name: 'mine' };

  test('registers for its type, and takes back what it has registered', () => {
    const at = editor();
    expect([[...at.providers.keys()], [...at.factories.keys()]]).toEqual([['kfault'], ['kfault']]);
    for (const each of at.subscriptions) each.dispose();
    expect([at.providers.size, at.factories.size]).toEqual([0, 0]);
  });

  test('starts `kfault dap`', () => {
    const { command, args } = descriptor(editor({ folders: [work] }));
    expect([command, args]).toEqual([kfault, ['dap']]);
    expect(spawnSync(command, args, { encoding: 'utf8' }).stdout).toBe('dap\n');
  });

  test('what it starts in this repository speaks the protocol', () => {
    const { command, args } = descriptor(editor({ folders: [root] }));
    const input = ['initialize', 'disconnect'].map((name, i) => {
      const text = JSON.stringify({
        seq: i + 1,
        type: 'request',
        command: name,
        arguments: { adapterID: 'kfault' },
      });
      return `Content-Length: ${text.length}\r\n\r\n${text}`;
    });
    const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', input: input.join('') });
    expect([status, stderr]).toEqual([0, '']);
    expect(stdout).toContain('"supportsStepBack":true');
  });

  test('looks into the folder of the session first, and into the others, each once', () => {
    const folders = [folder, work];
    expect(descriptor(editor({ folders })).command).toBe(kfault);
    expect(() => descriptor(editor({ folders, settings: { 'kfault.path': 'nowhere' } }))).toThrow(
      `kfault.path: there is no ${join(folder, 'nowhere')}.`,
    );
    const { PATH } = process.env;
    process.env.PATH = '';
    try {
      expect(() => descriptor(editor({ folders: [folder] }))).toThrow(
        `kfault was not found. ${folder} has no node_modules/.bin/kfault and is not kfault's own folder. PATH has no kfault.`,
      );
    } finally {
      process.env.PATH = PATH;
    }
  });

  test('without a launch.json it is the file in the editor', () => {
    const document = { path: fixture, languageId: 'yaml' };
    expect(resolved(editor({ folders: [work], document }), { noDebug: true })).toMatchObject({
      type: 'kfault',
      request: 'launch',
      fixture,
      noDebug: true,
    });
    const other = editor({ folders: [work], document: { path: '/x.ts', languageId: 'typescript' } });
    const unsaved = editor({ folders: [work], document: { ...document, scheme: 'untitled' } });
    const none = editor({ folders: [work] });
    expect([other, unsaved, none].map((at) => [resolved(at, {}), ...at.errors])).toEqual([
      [undefined, ['Open the fixture that is to be debugged, a YAML file, or name one in launch.json.']],
      [undefined, ['The fixture is not on the disk yet: save it first.']],
      [undefined, ['Open the fixture that is to be debugged, a YAML file, or name one in launch.json.']],
    ]);
  });

  test('a configuration is passed on, with whole paths', () => {
    writeFileSync(join(work, 'mine.yaml'), '');
    const settings = { 'kfault.engine': 'lib/libunicorn.so' };
    const given = { ...launch, fixture: 'mine.yaml', stopOnEntry: false, stopAt: 'f', steps: 'all' };
    const whole = { ...given, fixture: join(work, 'mine.yaml') };
    // As VS Code has it when nobody has set it.
    const unset = { 'kfault.engine': '' };
    expect(resolved(editor({ folders: [work], settings: unset }), given)).toEqual(whole);
    expect(resolved(editor({ folders: [work], settings }), given)).toEqual({
      ...whole,
      engine: join(work, 'lib/libunicorn.so'),
    });
    expect(resolved(editor({ folders: [work], settings }), { ...given, engine: '/opt/x.so' })).toEqual({
      ...whole,
      engine: '/opt/x.so',
    });
    // The adapter says what is wrong with it.
    expect(resolved(editor({ folders: [work] }), { ...given, engine: 7 })).toEqual({ ...whole, engine: 7 });
  });

  test('a configuration that names no fixture opens the launch.json', () => {
    const at = editor({ folders: [work] });
    expect([resolved(at, launch), resolved(at, { ...launch, fixture: 'gone.yaml' })]).toEqual([null, null]);
    expect(at.errors).toEqual([
      ['mine: fixture is missing, the path of the YAML file to debug.'],
      [`mine: fixture: there is no file ${join(work, 'gone.yaml')}.`],
    ]);
  });

  test('without kfault there is a message that leads to the setting', async () => {
    const settings = { 'kfault.path': '/nowhere/kfault' };
    const at = editor({ folders: [work], settings, choice: 'Open Settings' });
    expect(resolved(at, { ...launch, fixture })).toBeUndefined();
    expect(at.errors).toEqual([['kfault.path: there is no /nowhere/kfault.', 'Open Settings']]);
    await Promise.resolve();
    expect(at.executed).toEqual([['workbench.action.openSettings', 'kfault.path']]);
    expect(() => descriptor(at)).toThrow('kfault.path: there is no /nowhere/kfault.');
  });
});
