// Conditions on episodes in an exported file, where no server evaluates them: the language of `where`, evaluated on the
// columns of the list. A condition is parsed into functions of a row; nothing is ever run as code.
//
//   or ─► and ─► not ─► comparison, in, is None ─► + - ─► * / ─► -number ─► column, number, text, list, (…)
//
// A function returns null where a value is missing. As in Arrow, `and` and `or` are those of three truth values.
"use strict";

{
  const TOKEN = /\s*(?:(\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|("[^"\\\n]*"|'[^'\\\n]*')|([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)|(<=|>=|==|!=|[<>+\-*/()[\],]))/y;
  const CONSTANTS = { True: ["bool", true], False: ["bool", false], None: ["none", null] };
  const WORDS = new Set(["and", "or", "not", "in", "is", ...Object.keys(CONSTANTS)]);
  const COMPARISONS = {
    "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "==": (a, b) => a === b, "!=": (a, b) => a !== b,
  };
  const INTEGERS = new Set(["episode", "length", "seed"]);
  const TEXTS = new Set(["split", "ended", "policy", "run", "content_hash", "outlier"]);
  const NOT_FINITE = { nan: NaN, inf: Infinity, "-inf": -Infinity };
  const MAX_LENGTH = 10_000;
  const MAX_DEPTH = 200;

  const isNumber = (kind) => kind === "int" || kind === "float";

  /** Split a condition into tokens `{ kind, text }`. */
  function tokenize(condition) {
    if (condition.length > MAX_LENGTH) throw new Error(`a condition of ${condition.length} characters: expected at most ${MAX_LENGTH}`);
    const tokens = [];
    TOKEN.lastIndex = 0;
    const end = condition.trimEnd().length;
    while (TOKEN.lastIndex < end) {
      const at = TOKEN.lastIndex;
      const match = TOKEN.exec(condition);
      if (!match) throw new Error(`“${condition.slice(at).trim().slice(0, 12)}” is not part of a condition`);
      const [, number, text, name, sign] = match;
      if (number !== undefined) tokens.push({ kind: "number", text: number });
      else if (text !== undefined) tokens.push({ kind: "text", text: text.slice(1, -1) });
      else if (name !== undefined) tokens.push({ kind: WORDS.has(name) ? "word" : "name", text: name });
      else tokens.push({ kind: "sign", text: sign });
      const next = condition[TOKEN.lastIndex] ?? "";
      if ((number !== undefined || text !== undefined) && /[\w"'.]/.test(next)) throw new Error(`“${match[0].trim()}${next}” is not part of a condition`);
    }
    return tokens;
  }

  class Parser {
    constructor(tokens, columns) {
      this.tokens = tokens;
      this.columns = columns;
      this.place = 0;
      this.depth = 0;
      this.named = new Set(); // columns that the condition names
      this.guarded = new Set(); // those that it compares with None
    }

    parse() {
      const value = this.or();
      if (this.place < this.tokens.length) this.refuse(`“${this.tokens[this.place].text}” is not expected there`);
      if (value.constant && value.kind !== "list") return { kind: "bool", at: () => Boolean(value.constant.value) };
      return this.bool(value);
    }

    refuse(problem) {
      throw new Error(problem);
    }

    take(...texts) {
      const token = this.tokens[this.place];
      if (!token || token.kind === "text" || !texts.includes(token.text)) return null;
      this.place += 1;
      return token.text;
    }

    expect(text) {
      if (!this.take(text)) this.refuse(`expected ${text}${this.tokens[this.place] ? ` before “${this.tokens[this.place].text}”` : " at the end"}`);
    }

    // --- what binds least comes first ---

    or() {
      this.depth += 1;
      if (this.depth > MAX_DEPTH) this.refuse("the condition is nested too deeply");
      let left = this.and();
      while (this.take("or")) left = this.join(left, this.and(), true);
      this.depth -= 1;
      return left;
    }

    and() {
      let left = this.not();
      while (this.take("and")) left = this.join(left, this.not(), false);
      return left;
    }

    /** Join two conditions; `decisive` is the truth value that decides alone. */
    join(a, b, decisive) {
      const [left, right] = [this.bool(a), this.bool(b)];
      const at = (row) => {
        const first = left.at(row);
        if (first === decisive) return decisive;
        const second = right.at(row);
        return second === decisive ? decisive : first === null || second === null ? null : !decisive;
      };
      return { kind: "bool", at };
    }

    not() {
      this.depth += 1;
      if (this.depth > MAX_DEPTH) this.refuse("the condition is nested too deeply");
      let value;
      if (this.take("not")) {
        const inner = this.bool(this.not());
        value = { kind: "bool", at: (row) => (inner.at(row) === null ? null : !inner.at(row)) };
      } else value = this.comparison();
      this.depth -= 1;
      return value;
    }

    bool(value) {
      if (value.kind !== "bool" && value.kind !== "none") this.refuse("expected a comparison, or a column that is true or false");
      return value;
    }

    comparison() {
      let left = this.sum();
      let result = null;
      for (;;) {
        const sign = this.comparisonSign();
        if (!sign) return result ?? left;
        const right = this.sum();
        const part = this.compare(sign, left, right);
        result = result ? this.join(result, part, false) : part;
        left = right;
      }
    }

    comparisonSign() {
      const sign = this.take(...Object.keys(COMPARISONS), "in", "is");
      if (sign === "is") return this.take("not") ? "is not" : "is";
      if (sign) return sign;
      if (this.tokens[this.place]?.text === "not" && this.tokens[this.place + 1]?.text === "in") {
        this.place += 2;
        return "not in";
      }
      return null;
    }

    compare(sign, left, right) {
      if (left.kind === "none" || right.kind === "none") {
        const value = left.kind === "none" && right.kind !== "none" ? right : left;
        if (value.kind === "list") this.refuse("a list can stand only after in");
        if (value.column) this.guarded.add(value.column);
        const isNegated = sign === "!=" || sign === "is not";
        return { kind: "bool", at: (row) => (value.at(row) === null) !== isNegated };
      }
      if (sign === "in" || sign === "not in") return this.member(left, right, sign === "in");
      if (sign === "is" || sign === "is not") this.refuse("is compares with None only: expected == or !=");
      if (left.kind === "list" || right.kind === "list") this.refuse("a list can stand only after in");
      this.requireSame(left.kind, right.kind);
      const holds = COMPARISONS[sign];
      const at = (row) => {
        const [a, b] = [left.at(row), right.at(row)];
        return a === null || b === null ? null : holds(a, b);
      };
      return { kind: "bool", at };
    }

    requireSame(kind, other) {
      if (kind !== other && !(isNumber(kind) && isNumber(other))) this.refuse(`a ${nameKind(kind)} cannot be compared with a ${nameKind(other)}`);
    }

    member(value, list, isIn) {
      const items = list.kind === "list" ? list.items : [list];
      if (value.kind === "list") this.refuse("a list can stand only after in");
      if (items.some((item) => !item.constant)) this.refuse("after in comes a list of constants, such as ['expert', 'medium']");
      for (const item of items) if (item.kind !== "none") this.requireSame(value.kind, item.kind);
      const values = new Set(items.map((item) => item.constant.value));
      return { kind: "bool", at: (row) => values.has(value.at(row)) === isIn };
    }

    sum() {
      return this.arithmetic(["+", "-"], () => this.product());
    }

    product() {
      return this.arithmetic(["*", "/"], () => this.atom());
    }

    arithmetic(signs, operand) {
      let left = operand();
      for (;;) {
        const sign = this.take(...signs);
        if (!sign) return left;
        left = this.calculate(sign, left, operand());
      }
    }

    calculate(sign, left, right) {
      if (!isNumber(left.kind) || !isNumber(right.kind)) this.refuse(`${sign} needs two numbers`);
      const isInteger = left.kind === "int" && right.kind === "int";
      const operations = { "+": (a, b) => a + b, "-": (a, b) => a - b, "*": (a, b) => a * b, "/": (a, b) => divide(a, b, isInteger) };
      const operate = operations[sign];
      const at = (row) => {
        const [a, b] = [left.at(row), right.at(row)];
        return a === null || b === null ? null : operate(a, b);
      };
      return { kind: isInteger ? "int" : "float", at };
    }

    atom() {
      if (this.take("-")) {
        if (this.tokens[this.place]?.text === "-") this.refuse("- stands before a number, or between two values");
        const value = this.atom();
        if (!value.constant || !isNumber(value.kind)) this.refuse("- stands before a number, or between two values");
        return constant(value.kind, -value.constant.value);
      }
      const bracket = this.take("(", "[");
      if (bracket) return this.brackets(bracket);
      const token = this.tokens[this.place];
      if (!token) this.refuse("the condition is not complete");
      this.place += 1;
      if (token.kind === "number") return parseNumber(token.text);
      if (token.kind === "text") return constant("text", token.text);
      if (token.text in CONSTANTS && token.kind === "word") return constant(...CONSTANTS[token.text]);
      if (token.kind !== "name") this.refuse(`“${token.text}” is not expected there`);
      return this.column(token.text);
    }

    /** A condition in parentheses, or a list of constants; `(a, b)` is a list too. */
    brackets(bracket) {
      const closing = bracket === "(" ? ")" : "]";
      const items = [];
      let isList = bracket === "[";
      while (!this.take(closing)) {
        items.push(this.or());
        if (this.take(",")) isList = true;
        else {
          this.expect(closing);
          break;
        }
      }
      if (!isList && items.length === 1) return items[0];
      return { kind: "list", items, at: () => null };
    }

    column(name) {
      if (this.columns[name] === undefined) this.refuse(`there is no column ${name}. Columns are ${Object.keys(this.columns).join(", ")}`);
      this.named.add(name);
      const values = readNumbers(name, this.columns[name]);
      return { kind: columnKind(name, values), at: (row) => values[row], column: name };
    }
  }

  function constant(kind, value) {
    return { kind, at: () => value, constant: { value } };
  }

  function parseNumber(text) {
    const digits = text.replaceAll("_", "");
    if (/^0\d/.test(digits) && !/[.eE]/.test(digits)) throw new Error(`${text} is not a number`);
    return constant(/[.eE]/.test(digits) ? "float" : "int", Number(digits));
  }

  function divide(a, b, isInteger) {
    if (!isInteger) return a / b;
    if (b === 0) throw new Error("divide by zero");
    return Math.trunc(a / b);
  }

  /** The list writes numbers that JSON does not have as text. */
  function readNumbers(name, values) {
    if (TEXTS.has(name) || name.startsWith("metadata.")) return values;
    return values.map((value) => NOT_FINITE[value] ?? value);
  }

  function columnKind(name, values) {
    const first = values.find((value) => value !== null);
    if (typeof first === "boolean") return "bool";
    if (typeof first === "string") return "text";
    if (name === "success" || name === "duplicate") return "bool";
    if (name.startsWith("metadata.")) return values.every((value) => value === null || Number.isInteger(value)) ? "int" : "float";
    return INTEGERS.has(name) ? "int" : "float";
  }

  function nameKind(kind) {
    return { bool: "true or false", text: "text", list: "list" }[kind] ?? "number";
  }

  /**
   * Return the ids of the episodes that meet a condition.
   *
   * @param {string} condition The text, as for `where`.
   * @param {Object<string, Array>} columns Values by column, null where missing; `episode` has the ids.
   * @throws {Error} With a sentence that says what is wrong.
   */
  globalThis.selectEpisodes = function selectEpisodes(condition, columns) {
    const parser = new Parser(tokenize(condition), columns);
    const test = parser.parse();
    const ids = columns.episode;
    const unknown = [...parser.named].filter((name) => !parser.guarded.has(name) && ids.length && columns[name].every((value) => value === null));
    if (unknown.length) throw new Error(`${unknown.join(" and ")} was not recorded for any of the ${ids.length} episodes`);
    const results = ids.map((_, row) => test.at(row));
    if (ids.length && results.every((result) => result === null)) throw new Error("what it asks for was not recorded for any of the episodes");
    return ids.filter((_, row) => results[row] === true);
  };
}
