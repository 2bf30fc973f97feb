// Shows what a QInsight node says on the node itself; ComfyUI shows its pictures.
import { app } from "../../scripts/app.js";

const NAME = "qinsight_says";
const LEAST_HEIGHT = 60;

function wordsOf(node) {
  const found = node.widgets?.find((widget) => widget.name === NAME);
  if (found) return found;
  const box = document.createElement("textarea");
  box.className = "comfy-multiline-input";
  box.readOnly = true;
  const widget = node.addDOMWidget(NAME, "text", box, {
    // What is shown is no input: it belongs neither into a workflow nor into a prompt.
    serialize: false,
    getMinHeight: () => LEAST_HEIGHT,
    getValue: () => box.value,
    setValue: (text) => {
      box.value = text;
    },
  });
  widget.serialize = false;
  return widget;
}

app.registerExtension({
  name: "qinsight.says",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("QInsight")) return;
    const before = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      before?.apply(this, arguments);
      if (!output?.qinsight) return;
      wordsOf(this).value = output.qinsight.join("\n");
      const [width, height] = this.size;
      const [, needed] = this.computeSize();
      this.setSize([width, Math.max(height, needed)]);
      this.setDirtyCanvas(true, true);
    };
  },
});
