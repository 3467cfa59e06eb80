// BFS: level-synchronous breadth-first search. `expand` marks the neighbours of the frontier, `advance`
// makes the marked nodes the next frontier and says whether there is one. One thread a node.
typedef struct {
    int first;
    int count;
} Node;

__kernel void expand(__global const Node *nodes, __global const int *edges, __global unsigned char *frontier,
                     __global unsigned char *marked, __global const unsigned char *visited,
                     __global int *cost, int count)
{
    int node = get_global_id(0);
    if (node < count && frontier[node]) {
        frontier[node] = 0;
        int first = nodes[node].first, last = first + nodes[node].count;
        int next = cost[node] + 1;
        for (int edge = first; edge < last; edge++) {
            int other = edges[edge];
            if (!visited[other]) {
                cost[other] = next;
                marked[other] = 1;
            }
        }
    }
}

__kernel void advance(__global unsigned char *frontier, __global unsigned char *marked,
                      __global unsigned char *visited, __global unsigned char *again, int count)
{
    int node = get_global_id(0);
    if (node < count && marked[node]) {
        frontier[node] = 1;
        visited[node] = 1;
        *again = 1;
        marked[node] = 0;
    }
}
