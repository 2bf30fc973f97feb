// Shows what a QInsight node says on the node itself; ComfyUI shows its pictures. Fills in the
// prefix of file names.
import { app } from "../../scripts/app.js";
import { applyTextReplacements } from "../../scripts/utils.js";

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

// %date:yyyy-MM-dd% and %Node.widget%, which ComfyUI's page fills in for its own nodes only.
function fillInPrefix(nodeType) {
  const before = nodeType.prototype.onNodeCreated;
  nodeType.prototype.onNodeCreated = function () {
    const result = before?.apply(this, arguments);
    const prefix = this.widgets.find((widget) => widget.name === "filename_prefix");
    prefix.serializeValue = () => applyTextReplacements(app.graph, prefix.value);
    return result;
  };
}

app.registerExtension({
  name: "qinsight.says",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!nodeData.name.startsWith("QInsight")) return;
    if (nodeData.name === "QInsightSave") fillInPrefix(nodeType);
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
