/** The extension for VS Code: it starts `kfault dap`, and everything else comes through the protocol. */
import * as vscode from 'vscode';
import { FixtureConfigurations, TYPE } from './configurations.js';
import { type Command, findKfault } from './find-kfault.js';

export function activate(context: vscode.ExtensionContext): void {
  context.subscriptions.push(
    vscode.debug.registerDebugConfigurationProvider(TYPE, new FixtureConfigurations(commandFor)),
    vscode.debug.registerDebugAdapterDescriptorFactory(TYPE, {
      /** What is thrown, the editor shows. */
      createDebugAdapterDescriptor({ workspaceFolder }) {
        const { command, args } = commandFor(workspaceFolder);
        return new vscode.DebugAdapterExecutable(command, [...args]);
      },
    }),
  );
}

/** Throws KfaultNotFound. */
function commandFor(folder: vscode.WorkspaceFolder | undefined): Command {
  const others = (vscode.workspace.workspaceFolders ?? []).filter((each) => each.index !== folder?.index);
  return findKfault({
    setting: vscode.workspace.getConfiguration(TYPE, folder).get('path', ''),
    folders: [...(folder === undefined ? [] : [folder]), ...others].map((each) => each.uri.fsPath),
    path: process.env.PATH ?? '',
  });
}
