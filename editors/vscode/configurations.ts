/** Launch configurations: makes one where there is none, and checks them before anything is started. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import * as vscode from 'vscode';

/** The debugger's type in launch configurations, and the prefix of the settings. */
export const TYPE = 'kfault';

export class FixtureConfigurations implements vscode.DebugConfigurationProvider {
  /** `check` throws an error for people when kfault cannot be started. */
  constructor(private readonly check: (folder: vscode.WorkspaceFolder | undefined) => void) {}

  /** Without a launch.json the configuration comes empty: then it is the file in the editor. */
  resolveDebugConfiguration(
    _folder: vscode.WorkspaceFolder | undefined,
    configuration: vscode.DebugConfiguration,
  ): vscode.DebugConfiguration | undefined {
    if (configuration.type || configuration.request || configuration.name) return configuration;
    const document = vscode.window.activeTextEditor?.document;
    if (document?.languageId !== 'yaml') {
      showError('Open the fixture that is to be debugged, a YAML file, or name one in launch.json.');
      return undefined;
    }
    if (document.uri.scheme !== 'file') {
      showError('The fixture is not on the disk yet: save it first.');
      return undefined;
    }
    return {
      ...configuration,
      type: TYPE,
      request: 'launch',
      name: 'kfault: the fixture in the editor',
      fixture: document.uri.fsPath,
    };
  }

  /** `null` opens the launch.json, where the mistake is. */
  resolveDebugConfigurationWithSubstitutedVariables(
    folder: vscode.WorkspaceFolder | undefined,
    configuration: vscode.DebugConfiguration,
  ): vscode.DebugConfiguration | undefined | null {
    const { fixture } = configuration;
    if (typeof fixture !== 'string' || fixture === '') {
      showError(`${configuration.name}: fixture is missing, the path of the YAML file to debug.`);
      return null;
    }
    const file = absolute(fixture, folder);
    if (!isFile(file)) {
      showError(`${configuration.name}: fixture: there is no file ${file}.`);
      return null;
    }
    try {
      this.check(folder);
    } catch (error) {
      showError(error instanceof Error ? error.message : String(error), `${TYPE}.path`);
      return undefined;
    }
    return { ...configuration, fixture: file, engine: this.#engine(configuration.engine, folder) };
  }

  /** What is no text at all is left to the adapter, which checks the arguments. */
  #engine(given: unknown, folder: vscode.WorkspaceFolder | undefined): unknown {
    const engine = given || vscode.workspace.getConfiguration(TYPE, folder).get('engine');
    if (typeof engine !== 'string') return engine;
    return engine === '' ? undefined : absolute(engine, folder);
  }
}

/** A path as launch configurations and settings have it: a relative one begins at the folder. */
function absolute(path: string, folder: vscode.WorkspaceFolder | undefined): string {
  return folder === undefined ? resolve(path) : resolve(folder.uri.fsPath, path);
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

/** Shows an error, with a button that leads to the setting that would help. Waits for nobody. */
function showError(message: string, setting?: string): void {
  if (setting === undefined) {
    vscode.window.showErrorMessage(message);
    return;
  }
  const open = 'Open Settings';
  vscode.window.showErrorMessage(message, open).then((choice) => {
    if (choice === open) vscode.commands.executeCommand('workbench.action.openSettings', setting);
  });
}
