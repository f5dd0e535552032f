/**
 * Mistakes that somebody could make in a walker: each mutant of a source file is the file with one
 * permission check turned round or one bit constant off by one. General mutation tools leave numbers alone,
 * and in a walker numbers are what there is to get wrong.
 */
import ts from 'typescript';

export interface Mutant {
  /** From 1 on. */
  readonly line: number;
  /** The function, method or constant it is in. */
  readonly where: string;
  /** What stood there, and what stands there now. */
  readonly from: string;
  readonly to: string;
  readonly start: number;
  readonly end: number;
}

const OTHER_OPERATORS: ReadonlyMap<ts.SyntaxKind, readonly string[]> = new Map([
  [ts.SyntaxKind.EqualsEqualsEqualsToken, ['!==']],
  [ts.SyntaxKind.ExclamationEqualsEqualsToken, ['===']],
  [ts.SyntaxKind.LessThanToken, ['<=', '>=']],
  [ts.SyntaxKind.LessThanEqualsToken, ['<', '>']],
  [ts.SyntaxKind.GreaterThanToken, ['>=', '<=']],
  [ts.SyntaxKind.GreaterThanEqualsToken, ['>', '<']],
  [ts.SyntaxKind.AmpersandAmpersandToken, ['||']],
  [ts.SyntaxKind.BarBarToken, ['&&']],
  [ts.SyntaxKind.AmpersandToken, ['|']],
  [ts.SyntaxKind.BarToken, ['&']],
  [ts.SyntaxKind.BarEqualsToken, ['&=']],
  [ts.SyntaxKind.AmpersandEqualsToken, ['|=']],
  [ts.SyntaxKind.PlusToken, ['-']],
]);

const SHIFTS: ReadonlySet<ts.SyntaxKind> = new Set([
  ts.SyntaxKind.LessThanLessThanToken,
  ts.SyntaxKind.GreaterThanGreaterThanToken,
  ts.SyntaxKind.GreaterThanGreaterThanGreaterThanToken,
]);

/** All mutants of a file that are in one of the functions, methods and constants wanted. */
export function mutantsOf(
  source: string,
  codes: readonly (readonly string[])[],
  wanted: (where: string) => boolean,
): Mutant[] {
  const file = ts.createSourceFile('walker.ts', source, ts.ScriptTarget.ES2023, true);
  const mutants: Mutant[] = [];
  const others = new Map(
    codes.flatMap((group) => group.map((code, i) => [code, group[(i + 1) % group.length]])),
  );

  const visit = (node: ts.Node, where: string): void => {
    // Types, imports and the numbers of array elements decide nothing.
    if (ts.isTypeNode(node) || ts.isImportDeclaration(node) || ts.isInterfaceDeclaration(node)) return;
    if (ts.isTypeAliasDeclaration(node)) return;
    // Words for people.
    if (ts.isTemplateExpression(node)) return;
    // What a field holds before it is first written is read by nobody.
    if (ts.isPropertyDeclaration(node)) return;
    const inside = nameOf(node) ?? where;
    const add = (at: ts.Node, to: string): void => {
      const start = at.getStart(file);
      const { line } = file.getLineAndCharacterOfPosition(start);
      const from = source.slice(start, at.end);
      if (wanted(inside)) mutants.push({ line: line + 1, where: inside, from, to, start, end: at.end });
    };
    if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.QuestionQuestionToken) {
      // What follows `??` is for the compiler: the index is in range.
      visit(node.left, inside);
      if (!ts.isNumericLiteral(node.right) && !ts.isBigIntLiteral(node.right)) visit(node.right, inside);
      return;
    }
    if (ts.isBinaryExpression(node)) {
      for (const to of OTHER_OPERATORS.get(node.operatorToken.kind) ?? []) add(node.operatorToken, to);
    } else if (ts.isNumericLiteral(node) || ts.isBigIntLiteral(node)) {
      for (const to of otherNumbers(node)) add(node, to);
    } else if (ts.isPrefixUnaryExpression(node) && node.operator === ts.SyntaxKind.ExclamationToken) {
      add(node, node.operand.getText(file));
    } else if (ts.isReturnStatement(node) && node.expression !== undefined) {
      for (const code of codesIn(node.expression)) {
        const to = others.get(code.text);
        if (to !== undefined) add(code, to);
      }
    }
    const condition = conditionOf(node);
    if (condition !== null && !isTurnedAlready(condition)) add(condition, `!(${condition.getText(file)})`);
    ts.forEachChild(node, (child) => visit(child, inside));
  };
  visit(file, '');
  return mutants;
}

/** The file with the mistake made. */
export function applyMutant(source: string, { start, end, to }: Mutant): string {
  return source.slice(0, start) + to + source.slice(end);
}

function nameOf(node: ts.Node): string | null {
  if (ts.isConstructorDeclaration(node)) return 'constructor';
  // A constant of the file.
  if (ts.isVariableDeclaration(node) && ts.isSourceFile(node.parent.parent.parent))
    return node.name.getText();
  const isNamed =
    ts.isFunctionDeclaration(node) || ts.isMethodDeclaration(node) || ts.isGetAccessorDeclaration(node);
  return isNamed && node.name !== undefined ? node.name.getText() : null;
}

/** The number one bit further, and one bit nearer where that is another one; shift counts and small numbers one more. */
function otherNumbers(node: ts.NumericLiteral | ts.BigIntLiteral): string[] {
  const text = node.getText().replaceAll('_', '');
  const big = text.endsWith('n');
  const value = BigInt(big ? text.slice(0, -1) : text);
  const write = (other: bigint): string =>
    `${other < 10n ? other : `0x${other.toString(16)}`}${big ? 'n' : ''}`;
  const { parent } = node;
  const shifts = ts.isBinaryExpression(parent) && SHIFTS.has(parent.operatorToken.kind);
  // Of `1 << 5` the 5 is changed.
  if (shifts && parent.left === node && value === 1n) return [];
  if (!text.startsWith('0x') || (shifts && parent.right === node)) return [write(value + 1n)];
  return value % 2n === 0n ? [write(value << 1n), write(value >> 1n)] : [write(value << 1n)];
}

/** Identifiers that are an expression's value, or a part of the sum or choice that is. */
function codesIn(expression: ts.Expression): ts.Identifier[] {
  if (ts.isIdentifier(expression)) return [expression];
  if (ts.isParenthesizedExpression(expression)) return codesIn(expression.expression);
  if (ts.isConditionalExpression(expression)) {
    return [...codesIn(expression.whenTrue), ...codesIn(expression.whenFalse)];
  }
  return ts.isBinaryExpression(expression) ? [...codesIn(expression.left), ...codesIn(expression.right)] : [];
}

function conditionOf(node: ts.Node): ts.Expression | null {
  if (ts.isIfStatement(node)) return node.expression;
  return ts.isConditionalExpression(node) ? node.condition : null;
}

/** Is the condition one whose operator is changed anyway? */
function isTurnedAlready(condition: ts.Expression): boolean {
  if (ts.isPrefixUnaryExpression(condition)) return true;
  return (
    ts.isBinaryExpression(condition) &&
    OTHER_OPERATORS.has(condition.operatorToken.kind) &&
    !isLogical(condition)
  );
}

function isLogical({ operatorToken: { kind } }: ts.BinaryExpression): boolean {
  return kind === ts.SyntaxKind.AmpersandAmpersandToken || kind === ts.SyntaxKind.BarBarToken;
}
