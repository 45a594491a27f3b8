"""Placement "post": a site whose norm stands after the layer's activation, if that is a module of its own."""

from dataclasses import replace

from torch import fx

from bnretrofit.capture import Graph, op_of
from bnretrofit.layers import LAYER_OPS
from bnretrofit.readers import readers
from bnretrofit.sites import Site, Skip
from bnretrofit.topology import following_norm

__all__ = ["after_activation"]

NO_ACTIVATIONS = ("Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU", "MultiheadAttention")


def after_activation(graph: Graph, site: Site) -> Site | Skip:
    """Move a site behind its layer's activation.

    Args:
        graph: The captured model.
        site: A site of placement "pre".

    Returns:
        The site of placement "post"; or a skip, where no activation module follows the layer alone.
    """
    calls = [node for node in graph.nodes if graph.owners[node] == site.name and op_of(node) in LAYER_OPS]
    activations = [_activation(graph, call) for call in calls]
    problem = next((found for found in activations if isinstance(found, str)), None)
    if problem is not None:
        return Skip(site.name, site.kind, problem)
    names = {graph.owners[node] for node in activations if isinstance(node, fx.Node)}
    name = names.pop()
    if names:
        return Skip(site.name, site.kind, f"several activations follow it: {', '.join(sorted({name, *names}))}")
    if len([node for node in graph.nodes if graph.owners[node] == name]) > len(activations):
        return Skip(site.name, site.kind, f"its activation '{name}' is called elsewhere too, and would share the norm")
    norms = [following_norm(graph, node) for node in activations if isinstance(node, fx.Node)]
    if all(norms):
        return Skip(site.name, site.kind, f"{norms[0]} already normalises its activation")
    return replace(site, activation=name, norm_name=f"{name}.norm", result_name=site.name)


def _activation(graph: Graph, call: fx.Node) -> fx.Node | str:
    """The one call that an activation module makes on a layer's output, or why there is none."""
    if len(read_by := readers(call)) != 1:
        return f"its output is read by {len(read_by)} calls, not by one activation"
    (node,) = read_by
    if node.op != "call_function":
        return "no activation follows it: its output is the model's own"
    owner = graph.owner(node)
    # Judged by class, since any leaf may be called between a layer and the next: torch's activations, and timm's.
    place = type(owner).__module__
    if not (place == "torch.nn.modules.activation" or place.startswith("timm.layers.activations")):
        return f"{op_of(node)} in {graph.place(node)} follows it, which is no activation module"
    if type(owner).__name__ in NO_ACTIVATIONS or node.meta["val"].shape != call.meta["val"].shape:
        return f"{graph.place(node)} follows it, which does not act on each element alone"
    return node
