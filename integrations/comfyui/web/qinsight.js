// Shows what a QInsight node says on the node itself; ComfyUI shows its pictures.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const NAME = "qinsight_says";

function textOf(node) {
  const found = node.widgets?.find((widget) => widget.name === NAME);
  if (found) return found;
  const { widget } = ComfyWidgets.STRING(node, NAME, ["STRING", { multiline: true }], app);
  widget.inputEl.readOnly = true;
  widget.inputEl.style.opacity = 0.8;
  // What is shown is no input: it belongs neither into a workflow nor into a prompt.
  widget.serialize = false;
  widget.options = { ...widget.options, serialize: false };
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
      textOf(this).value = output.qinsight.join("\n");
      const [width, height] = this.size;
      const [, needed] = this.computeSize();
      this.setSize([width, Math.max(height, needed)]);
      this.setDirtyCanvas(true, true);
    };
  },
});
