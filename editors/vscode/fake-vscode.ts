/** What the extension uses of the editor: a stand-in for its module `vscode` that remembers what it is told. */
import { createRequire } from 'node:module';
import { compileFunction } from 'node:vm';
import type * as vscode from 'vscode';

export interface Desk {
  /** Folders of the workspace. */
  readonly folders?: readonly string[];
  /** Settings by name, `kfault.path`. */
  readonly settings?: Readonly<Record<string, unknown>>;
  /** The file in the editor. */
  readonly document?: { readonly path: string; readonly languageId: string; readonly scheme?: string };
  /** What is chosen of the buttons of a message. */
  readonly choice?: string;
}

export class FakeEditor {
  /** Messages with their buttons. */
  readonly errors: (readonly string[])[] = [];
  /** Commands that were executed, with their arguments. */
  readonly executed: (readonly unknown[])[] = [];
  readonly providers = new Map<string, vscode.DebugConfigurationProvider>();
  readonly factories = new Map<string, vscode.DebugAdapterDescriptorFactory>();
  readonly folders: readonly vscode.WorkspaceFolder[];
  readonly subscriptions: { dispose(): void }[] = [];

  constructor(private readonly desk: Desk = {}) {
    this.folders = (desk.folders ?? []).map(
      (fsPath, index) => ({ uri: { fsPath, scheme: 'file' }, name: fsPath, index }) as vscode.WorkspaceFolder,
    );
  }

  /** Loads a bundle as VS Code does, and activates it. */
  activate(bundle: string): this {
    const module = { exports: {} as { activate?(context: unknown): void } };
    const native = createRequire(import.meta.url);
    const require = (name: string): unknown => (name === 'vscode' ? this.#module() : native(name));
    compileFunction(bundle, ['module', 'exports', 'require'])(module, module.exports, require);
    if (module.exports.activate === undefined) throw new Error('the bundle has no activate()');
    module.exports.activate({ subscriptions: this.subscriptions });
    return this;
  }

  #module(): unknown {
    const { desk } = this;
    const register = <T>(into: Map<string, T>) => {
      return (type: string, registered: T) => {
        into.set(type, registered);
        return { dispose: () => into.delete(type) };
      };
    };
    return {
      DebugAdapterExecutable: class {
        constructor(
          readonly command: string,
          readonly args: readonly string[],
        ) {}
      },
      debug: {
        registerDebugConfigurationProvider: register(this.providers),
        registerDebugAdapterDescriptorFactory: register(this.factories),
      },
      commands: { executeCommand: (...command: unknown[]) => this.executed.push(command) },
      window: {
        activeTextEditor: desk.document && {
          document: {
            languageId: desk.document.languageId,
            uri: { fsPath: desk.document.path, scheme: desk.document.scheme ?? 'file' },
          },
        },
        showErrorMessage: async (...message: string[]) => {
          this.errors.push(message);
          return desk.choice;
        },
      },
      workspace: {
        workspaceFolders: this.folders.length === 0 ? undefined : this.folders,
        getConfiguration: (section: string) => ({
          get: (name: string, otherwise?: unknown) => desk.settings?.[`${section}.${name}`] ?? otherwise,
        }),
      },
    };
  }
}
