// The C header of a bundle: the runtime's interface, then typed functions for each layer.
#include <cctype>
#include <cstdint>
#include <string>
#include <vector>

#include <convt/version.hpp>

#include "aot/bundle.hpp"
#include "aot/layer_object.hpp"
#include "aot/runtime/convt_aot.h"
#include "aot/runtime_files.hpp"

namespace convt::aot {
namespace {

const char* c_type(DataType type) {
  switch (type) {
    case DataType::f32:
      return "float";
    case DataType::f16:
    case DataType::bf16:
      return "uint16_t";
    case DataType::s8:
      return "int8_t";
    case DataType::u8:
      return "uint8_t";
  }
  return "void";
}

std::string product(const std::vector<std::string>& lengths) {
  std::string text = "(";
  for (const std::string& length : lengths) text += (text.size() > 1 ? ", " : "") + length;
  return text + ")";
}

std::string tensor_shape(const Problem& p, std::int64_t channels, std::int64_t pitch,
                         std::int64_t Axis::*length) {
  std::string channel_text = std::to_string(channels);
  if (pitch != channels) channel_text += " of " + std::to_string(pitch);
  std::vector<std::string> lengths{"batch"};
  if (p.layout == Layout::nchw) lengths.push_back(channel_text);
  for (int a = 0; a < p.rank; ++a) {
    lengths.push_back(std::to_string(p.axes[static_cast<std::size_t>(a)].*length));
  }
  if (p.layout == Layout::nhwc) lengths.push_back(channel_text);
  return product(lengths);
}

/// A parameter of run(), and what it is.
struct Parameter {
  std::string type;
  const char* name;
  const char* field;  ///< of convt_aot_arguments
  std::string shape;
};

std::string pointer_to(const char* type) { return std::string("const ") + type + "*"; }

/// Bits of a half type are no numbers of C.
std::string type_note(DataType type) {
  return type == DataType::f16 || type == DataType::bf16 ? std::string(", ") + to_string(type) : "";
}

std::vector<Parameter> make_parameters(const Problem& p) {
  const std::string oc = std::to_string(p.out_channels);
  std::vector<Parameter> made;
  made.push_back(
      {pointer_to(c_type(p.dtype)), "src", "src",
       tensor_shape(p, p.in_channels, p.src_pitch(), &Axis::input) + type_note(p.dtype)});
  made.push_back({"const void*", "packed_weights", "weights", "what pack() made"});
  if (p.bias) made.push_back({"const float*", "bias", "bias", "(" + oc + ")"});
  if (const int rows = p.parameter_rows(); rows > 0) {
    made.push_back(
        {"const float*", "parameters", "parameters", "(" + std::to_string(rows) + ", " + oc + ")"});
  }
  if (p.input_activation && p.input_activation->parameter_rows() > 0) {
    made.push_back({"const float*", "input_parameters", "input_parameters",
                    "(" + std::to_string(p.input_activation->parameter_rows()) + ", " +
                        std::to_string(p.in_channels) + ")"});
  }
  if (p.has_residual()) {
    made.push_back({pointer_to(c_type(p.dst_dtype)), "residual", "residual",
                    tensor_shape(p, p.out_channels, p.residual_pitch(), &Axis::output) +
                        type_note(p.dst_dtype) + "; may be dst"});
  }
  made.push_back(
      {std::string(c_type(p.dst_dtype)) + "*", "dst", "dst",
       tensor_shape(p, p.out_channels, p.dst_pitch(), &Axis::output) + type_note(p.dst_dtype)});
  return made;
}

class HeaderWriter {
 public:
  std::string write(const Bundle& bundle, const std::string& file_name) {
    write_top(file_name);
    for (const BundleLayer& layer : bundle.layers) write_layer(layer);
    out_ += "#endif\n";
    return std::move(out_);
  }

 private:
  void line(const std::string& text) { out_ += text + "\n"; }

  void write_top(const std::string& file_name) {
    std::string guard = "CONVT_KERNELS_" + file_name;
    for (char& c : guard) {
      c = std::isalnum(static_cast<unsigned char>(c)) != 0
              ? static_cast<char>(std::toupper(static_cast<unsigned char>(c)))
              : '_';
    }
    line("/* " + file_name + ": kernels made by convt " CONVT_VERSION_STRING ". Do not edit. */");
    line("#ifndef " + guard);
    line("#define " + guard);
    line("");
    out_ += runtime_header();
    line("");
    line("#if CONVT_AOT_ABI != " + std::to_string(CONVT_AOT_ABI));
    line("#error \"this header and another one are of different versions of convt\"");
    line("#endif");
    line("");
  }

  void write_layer(const BundleLayer& layer) {
    const Problem& problem = layer.layer.problem;
    const std::vector<Parameter> parameters = make_parameters(problem);
    const std::string& id = layer.identifier;
    write_description(layer, parameters);
    line("CONVT_AOT_EXTERN const convt_aot_layer " + layer_symbol(layer) + ";");
    line("");
    const std::string handle = "(CONVT_AOT_ABI, &" + layer_symbol(layer);
    line("static inline size_t " + id + "_packed_bytes(void) {");
    line("  return convt_aot_packed_bytes" + handle + ");");
    line("}");
    line("static inline size_t " + id + "_workspace_bytes(int threads, int64_t batch) {");
    line("  return convt_aot_workspace_bytes" + handle + ", threads, batch);");
    line("}");
    if (!layer.variants.front().weights.empty()) {
      line("/* Already packed, for this CPU. */");
      line("static inline const void* " + id + "_weights(void) {");
      line("  return convt_aot_weights" + handle + ");");
      line("}");
    }
    line("static inline int " + id + "_pack(const " + c_type(weights_dtype(problem.dtype)) +
         "* weights, void* packed) {");
    line("  return convt_aot_pack" + handle + ", weights, packed);");
    line("}");
    write_run(layer, parameters, true);
    write_run(layer, parameters, false);
    line("");
  }

  void write_description(const BundleLayer& layer, const std::vector<Parameter>& parameters) {
    const Problem& problem = layer.layer.problem;
    line("/* " + layer.identifier +
         (layer.layer.name.empty() ? "" : ": " + comment(layer.layer.name)));
    line(" *   " + comment(problem.to_text()));
    std::vector<std::string> weights{std::to_string(problem.in_channels),
                                     std::to_string(problem.oc_per_group())};
    for (int a = 0; a < problem.rank; ++a) {
      weights.push_back(std::to_string(problem.axes[static_cast<std::size_t>(a)].kernel));
    }
    const DataType type = weights_dtype(problem.dtype);
    line(" *   weights: " + std::string(c_type(type)) + " " + product(weights) + type_note(type) +
         ", for pack()");
    for (const Parameter& parameter : parameters) {
      line(" *   " + std::string(parameter.name) + ": " + parameter.shape);
    }
    for (const Variant& variant : layer.variants) {
      line(" *   for " + variant.target + ": " + std::to_string(variant.code_bytes) +
           " bytes of code, " + std::to_string(variant.kernel->packed.bytes()) +
           " of packed weights");
    }
    line(" */");
  }

  /// Text of the user's inside a comment.
  static std::string comment(std::string text) {
    for (char& c : text) {
      if (c == '*' || c == '/' || c == '\\' || c < ' ') c = '_';
    }
    return text;
  }

  void write_run(const BundleLayer& layer, const std::vector<Parameter>& parameters, bool serial) {
    line("static inline int " + layer.identifier + (serial ? "_run(" : "_run_parallel("));
    for (const Parameter& parameter : parameters) {
      line("    " + parameter.type + " " + parameter.name + ",");
    }
    const std::string threads =
        serial ? "" : ", int threads,\n    convt_aot_parallel_for parallel_for, void* context";
    line("    int64_t batch, void* workspace" + threads + ") {");
    line("  convt_aot_arguments arguments = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0};");
    line("  arguments.batch = batch;");
    for (const Parameter& parameter : parameters) {
      line(std::string("  arguments.") + parameter.field + " = " + parameter.name + ";");
    }
    line("  arguments.workspace = workspace;");
    line("  arguments.workspace_bytes = " + layer.identifier + "_workspace_bytes(" +
         (serial ? "1" : "threads") + ", batch);");
    if (!serial) {
      line("  arguments.threads = threads;");
      line("  arguments.parallel_for = parallel_for;");
      line("  arguments.context = context;");
    }
    line("  return convt_aot_run(CONVT_AOT_ABI, &" + layer_symbol(layer) + ", &arguments);");
    line("}");
  }

  std::string out_;
};

}  // namespace

std::string make_header(const Bundle& bundle, const std::string& file_name) {
  return HeaderWriter().write(bundle, file_name);
}

}  // namespace convt::aot
