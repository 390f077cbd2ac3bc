import type { ThemeProps } from "@rjsf/core";
import ArrayFieldItemTemplate from "@rjsf/mantine/lib/templates/ArrayFieldItemTemplate.js";
import ArrayFieldTemplate from "@rjsf/mantine/lib/templates/ArrayFieldTemplate.js";
import ArrayFieldTitleTemplate from "@rjsf/mantine/lib/templates/ArrayFieldTitleTemplate.js";
import makeButtons from "@rjsf/mantine/lib/templates/ButtonTemplates/index.js";
import DescriptionField from "@rjsf/mantine/lib/templates/DescriptionField.js";
import ErrorList from "@rjsf/mantine/lib/templates/ErrorList.js";
import FieldErrorTemplate from "@rjsf/mantine/lib/templates/FieldErrorTemplate.js";
import FieldHelpTemplate from "@rjsf/mantine/lib/templates/FieldHelpTemplate.js";
import FieldTemplate from "@rjsf/mantine/lib/templates/FieldTemplate.js";
import GridTemplate from "@rjsf/mantine/lib/templates/GridTemplate.js";
import MultiSchemaFieldTemplate from "@rjsf/mantine/lib/templates/MultiSchemaFieldTemplate.js";
import ObjectFieldTemplate from "@rjsf/mantine/lib/templates/ObjectFieldTemplate.js";
import OptionalDataControlsTemplate from "@rjsf/mantine/lib/templates/OptionalDataControlsTemplate.js";
import TitleField from "@rjsf/mantine/lib/templates/TitleField.js";
import WrapIfAdditionalTemplate from "@rjsf/mantine/lib/templates/WrapIfAdditionalTemplate.js";
import CheckboxesWidget from "@rjsf/mantine/lib/widgets/CheckboxesWidget.js";
import CheckboxWidget from "@rjsf/mantine/lib/widgets/CheckboxWidget.js";
import SelectWidget from "@rjsf/mantine/lib/widgets/SelectWidget.js";

/**
 * rjsf in Mantine's clothes, part by part: with calendars, colours and files, which no command has, the whole theme is
 * twice as heavy. Lines of text and numbers are `CommandForm`'s own.
 */
export function mantineTheme<T>(): ThemeProps<T> {
  return {
    templates: {
      ArrayFieldItemTemplate,
      ArrayFieldTemplate,
      ArrayFieldTitleTemplate,
      ButtonTemplates: makeButtons<T>(),
      DescriptionFieldTemplate: DescriptionField,
      ErrorListTemplate: ErrorList,
      FieldErrorTemplate,
      FieldHelpTemplate,
      FieldTemplate,
      GridTemplate,
      MultiSchemaFieldTemplate,
      ObjectFieldTemplate,
      OptionalDataControlsTemplate,
      TitleFieldTemplate: TitleField,
      WrapIfAdditionalTemplate,
    },
    widgets: { CheckboxesWidget, CheckboxWidget, SelectWidget },
  };
}
