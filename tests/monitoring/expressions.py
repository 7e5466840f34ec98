"""What a PromQL expression mentions: selectors, and labels that it groups and joins by."""

import re

AGGREGATIONS = {
    "avg", "bottomk", "count", "count_values", "group", "max", "min", "quantile", "stddev", "stdvar", "sum", "topk",
}
LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"} | AGGREGATIONS | LABEL_LISTS
TOKEN = re.compile(r"""\s+|(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<range>\[[^\]]*\])
                       |(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)|(?P<number>[0-9][0-9A-Za-z.]*)
                       |(?P<sign>=~|!~|!=|==|>=|<=|.)""", re.VERBOSE)


class Mentions:
    """`selectors`: pairs of a metric's name and its matchers (label to text); `labels`: of all lists."""

    def __init__(self, expression):
        self.selectors, self.labels = [], set()
        self.tokens = [(match.lastgroup, match.group()) for match in TOKEN.finditer(expression) if match.lastgroup]
        self.at = 0
        while self.at < len(self.tokens):
            kind, text = self.take()
            if kind == "name" and text in LABEL_LISTS:
                self.labels |= set(self.names_in_brackets())
            elif kind == "name" and self.peek() != "(" and text.lower() not in WORDS:
                self.selectors.append((text, self.matchers()))

    def peek(self):
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self):
        self.at += 1
        return self.tokens[self.at - 1]

    def names_in_brackets(self):
        if self.peek() != "(":
            return
        while self.take()[1] != ")":
            if self.tokens[self.at][0] == "name":
                yield self.peek()

    def matchers(self):
        found = {}
        if self.peek() != "{":
            return found
        label = None
        while self.take()[1] != "}":
            kind, text = self.tokens[self.at - 1]
            if kind == "name":
                label = text
            elif kind == "sign" and text not in "{,":
                found[label] = text
            elif kind == "string":
                found[label] += text
        return found


def selector(name, matchers):
    """As PromQL again."""
    inner = ", ".join(label + rest for label, rest in matchers.items())
    return f"{name}{{{inner}}}" if inner else name
